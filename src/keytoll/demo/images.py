"""/v1/images/generations: tiny pictures made from a hash of the prompt, whole or as a stream."""

import base64
import hashlib
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keytoll.demo.asked import Fields, Refused, whole_number
from keytoll.demo.text import count_tokens
from keytoll.demo.wire import event_bytes

SIDE = 8
TOKENS_OF_ONE = SIDE * SIDE
MAXIMUM_IMAGES = 10


@dataclass(frozen=True, slots=True)
class Run:
    """`images` are PNG files in base64."""

    prompt_tokens: int
    images: tuple[str, ...]
    partial: int

    def usage(self) -> dict[str, Any]:
        output_tokens = TOKENS_OF_ONE * len(self.images)
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"text_tokens": self.prompt_tokens, "image_tokens": 0},
            "output_tokens": output_tokens,
            "total_tokens": self.prompt_tokens + output_tokens,
        }


def run_images(fields: Fields) -> Run:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise Refused(400, "prompt must be a string.", param="prompt")
    number = whole_number(fields, "n", lowest=1, highest=MAXIMUM_IMAGES) or 1
    images = tuple(_png(f"{prompt} {index}") for index in range(number))
    return Run(count_tokens(prompt), images, whole_number(fields, "partial_images", lowest=0, highest=3) or 0)


def images(run: Run) -> dict[str, Any]:
    return {**_head(), "data": [{"b64_json": image} for image in run.images], "usage": run.usage()}


def image_events(run: Run) -> Iterator[bytes]:
    """The stream of the first image: as often as asked for a partial one, which costs nothing, then the whole."""
    for index in range(run.partial):
        partial = {"b64_json": run.images[0], "partial_image_index": index}
        yield _event("image_generation.partial_image", partial)
    yield _event("image_generation.completed", {"b64_json": run.images[0], "usage": run.usage()})


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return event_bytes(kind, {"type": kind, "created_at": int(time.time())} | _HEAD | data)


_HEAD = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024"}


def _head() -> dict[str, Any]:
    return {"created": int(time.time())} | _HEAD


def _png(seed: str) -> str:
    gray = hashlib.shake_128(seed.encode("utf-8", "surrogatepass")).digest(SIDE * SIDE)
    rows = b"".join(b"\0" + gray[at : at + SIDE] for at in range(0, len(gray), SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
