"""JSON as it is sent: UTF-8, and valid even where a caller's text holds half of a surrogate pair."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


def json_bytes(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class JsonAnswer(Response):
    media_type = "application/json"

    def render(self, content: Mapping[str, Any]) -> bytes:
        return json_bytes(content)


def event_bytes(kind: str, data: Mapping[str, Any]) -> bytes:
    """An event of a stream, with its kind in a line of its own as well."""
    return f"event: {kind}\ndata: ".encode() + json_bytes(data) + b"\n\n"
