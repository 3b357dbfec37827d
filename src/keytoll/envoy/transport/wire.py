"""What gRPC puts into HTTP/2: statuses, the prefix of a message, deadlines. Nothing here knows a connection."""

import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

Fields = tuple[tuple[bytes, bytes], ...]
"""A header block."""


class Code(IntEnum):
    """The statuses that are sent, by gRPC's numbers."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer without a message: the one header block that it consists of, and the trailers that say the same."""

    block: Fields
    trailers: Fields = ()


class Refused(Exception):
    """Raised by a method that answers with a status instead of a message."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__()
        self.refusal = refusal


def refusal(code: Code, message: str, *more: tuple[bytes, bytes]) -> Refusal:
    """Return the refusal with a status. `message` is plain ASCII without a percent sign, so it needs no encoding."""
    trailers = ((b"grpc-status", str(int(code)).encode()), (b"grpc-message", message.encode("ascii")), *more)
    return Refusal(HEADERS + trailers, trailers)


def http_refusal(status: int, *more: tuple[bytes, bytes]) -> Refusal:
    """Return the refusal of what is not gRPC at all."""
    return Refusal(((b":status", str(status).encode()), (b"content-length", b"0"), *more))


HEADERS: Fields = ((b":status", b"200"), (b"content-type", b"application/grpc"))
"""Before the message of an answer."""

TRAILERS: Fields = ((b"grpc-status", b"0"),)
"""Behind it."""

NOT_GRPC = http_refusal(415)
NOT_POST = http_refusal(405, (b"allow", b"POST"))
UNKNOWN_METHOD = refusal(Code.UNIMPLEMENTED, "no such method")
EXPIRED = refusal(Code.DEADLINE_EXCEEDED, "the deadline has passed")
BAD_TIMEOUT = refusal(Code.INTERNAL, "grpc-timeout: not a timeout")
TOO_LARGE = refusal(Code.RESOURCE_EXHAUSTED, "the message is too large")
TOO_MUCH = refusal(Code.RESOURCE_EXHAUSTED, "too many messages are on their way")
NO_MESSAGE = refusal(Code.UNIMPLEMENTED, "one message is expected, and none came")
MORE_MESSAGES = refusal(Code.UNIMPLEMENTED, "one message is expected, and more came")
CUT_MESSAGE = refusal(Code.INTERNAL, "the message ends too early")
BAD_PREFIX = refusal(Code.INTERNAL, "the message's prefix is neither 0 nor 1")
NO_ENCODING = refusal(Code.INTERNAL, "grpc-encoding: missing, and the message is compressed")
COMPRESSED = refusal(
    Code.UNIMPLEMENTED, "grpc-encoding: not supported; send identity", (b"grpc-accept-encoding", b"identity")
)
STOPPING = refusal(Code.UNAVAILABLE, "Keytoll is stopping")

_PREFIX = struct.Struct(">BI")
_PREFIX_BYTES = 5
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])", re.ASCII)
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def framed(message: bytes) -> bytes:
    """Return a message with its prefix."""
    return _PREFIX.pack(0, len(message)) + message


def message_in(body: bytes | bytearray, encoding: bytes, *, most_bytes: int) -> bytes | Refusal:
    """Return the one message that a whole body must hold, or why it doesn't."""
    if (held := len(body) - _PREFIX_BYTES) >= 0 and _PREFIX.unpack_from(body) == (0, held) and held <= most_bytes:
        return bytes(body[_PREFIX_BYTES:])
    return _problem_in_whole(body, encoding, most_bytes=most_bytes)


def _problem_in_whole(body: bytes | bytearray, encoding: bytes, *, most_bytes: int) -> Refusal:
    if (problem := problem_in(body, encoding, most_bytes=most_bytes)) is not None:
        return problem
    return CUT_MESSAGE if body else NO_MESSAGE


def problem_in(body: bytes | bytearray, encoding: bytes, *, most_bytes: int) -> Refusal | None:
    """Return what is wrong with a body as far as it is known; its rest may be on its way."""
    if not body:
        return None
    if body[0]:
        return _wrong_prefix(body[0], encoding)
    if len(body) < _PREFIX_BYTES:
        return None
    declared = int.from_bytes(body[1:_PREFIX_BYTES], "big")
    if declared > most_bytes:
        return TOO_LARGE
    return MORE_MESSAGES if len(body) - _PREFIX_BYTES > declared else None


def _wrong_prefix(first: int, encoding: bytes) -> Refusal:
    if first != 1:
        return BAD_PREFIX
    return NO_ENCODING if encoding in (b"", b"identity") else COMPRESSED


@lru_cache(maxsize=256)
def timeout_s(value: bytes) -> float | None:
    """Return the time that the value of grpc-timeout gives a call, or None if it is no such value."""
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _UNITS_S[match[2]] if match else None
