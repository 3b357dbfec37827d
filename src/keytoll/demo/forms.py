"""Multipart forms, as the common clients write them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from keytoll.demo.asked import Refused

_BOUNDARY = re.compile(r'multipart/form-data;.*boundary="?([^";]+)"?', re.IGNORECASE)
_NAME = re.compile(rb'content-disposition: form-data; name="?([^";\r\n]+)"?(; filename)?', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file in a form."""

    content: bytes


Form = Mapping[str, str | Upload]


def read_form(content_type: str, body: bytes) -> Form:
    boundary = _BOUNDARY.fullmatch(content_type)
    if boundary is None:
        raise Refused(400, "The body must be a form.")
    first, *parts, last = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())
    if first or last.strip() != b"--":
        raise Refused(400, "The form is not complete.")
    return dict(map(_field, parts))


def _field(part: bytes) -> tuple[str, str | Upload]:
    head, _, content = part.partition(b"\r\n\r\n")
    name = _NAME.search(head)
    if name is None:
        raise Refused(400, "A part of the form has no name.")
    value = Upload(content) if name[2] else content.decode("utf-8", "replace")
    return name[1].decode("utf-8", "replace"), value
