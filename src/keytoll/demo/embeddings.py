"""/v1/embeddings: vectors made from a hash of the text, so that the same text always has the same one."""

import base64
import hashlib
import math
import struct
from typing import Any

from keytoll.demo.asked import Fields, Refused, prompts, whole_number

DEFAULT_DIMENSIONS = 64
MAXIMUM_DIMENSIONS = 4096
MAXIMUM_INPUTS = 2048


def embeddings(fields: Fields) -> dict[str, Any]:
    asked = prompts(fields.get("input"), param="input")
    if len(asked) > MAXIMUM_INPUTS:
        raise Refused(400, f"input must have at most {MAXIMUM_INPUTS} items.", param="input")
    dimensions = whole_number(fields, "dimensions", lowest=1, highest=MAXIMUM_DIMENSIONS) or DEFAULT_DIMENSIONS
    in_base64 = _in_base64(fields)
    data = [
        {"object": "embedding", "index": index, "embedding": _embedding(prompt.said, dimensions, in_base64=in_base64)}
        for index, prompt in enumerate(asked)
    ]
    tokens = sum(prompt.tokens for prompt in asked)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": fields["model"], "usage": usage}


def _in_base64(fields: Fields) -> bool:
    encoding = fields.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise Refused(400, "encoding_format must be float or base64.", param="encoding_format")
    return bool(encoding == "base64")


def _embedding(text: str, dimensions: int, *, in_base64: bool) -> list[float] | str:
    vector = _vector(text, dimensions)
    return base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if in_base64 else vector


def _vector(text: str, dimensions: int) -> list[float]:
    numbers = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    raw = [number + 0.5 for number in struct.unpack(f"<{dimensions}h", numbers)]
    length = math.hypot(*raw)
    return [number / length for number in raw]
