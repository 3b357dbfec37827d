"""Protobuf's wire format, read without any schema: so that a fuzz can edit fields, and a judge can read what a message
says without the code that it judges. https://protobuf.dev/programming-guides/encoding/
"""

from typing import NamedTuple

VARINT, FIXED64, LENGTH, GROUP, FIXED32 = 0, 1, 2, 3, 5
_END_GROUP = 4


class Field(NamedTuple):
    """A field as it stands in a message: its number, wire type and what follows its tag, without any length."""

    number: int
    wire: int
    payload: bytes


class NotWire(ValueError):
    """The bytes are no protobuf message."""


def fields(message: bytes) -> list[Field]:
    """Return the fields of a message in their order. Raises NotWire."""
    found, at = [], 0
    while at < len(message):
        field, at = _field(message, at)
        found.append(field)
    return found


def encoded(parts: list[Field]) -> bytes:
    """Return the message that these fields make."""
    return b"".join(encoded_field(part) for part in parts)


def encoded_field(field: Field, *, length_error: int = 0) -> bytes:
    """Return one field; its length, where it has one, is off by `length_error`."""
    tag = varint(field.number << 3 | field.wire)
    if field.wire == LENGTH:
        return tag + varint(max(0, len(field.payload) + length_error)) + field.payload
    if field.wire == GROUP:
        return tag + field.payload + varint(field.number << 3 | _END_GROUP)
    return tag + field.payload


def varint(number: int) -> bytes:
    """Return a whole number that is not negative, in protobuf's base-128."""
    encoded_bytes = bytearray()
    while number > 0x7F:
        encoded_bytes.append(number & 0x7F | 0x80)
        number >>= 7
    encoded_bytes.append(number)
    return bytes(encoded_bytes)


def varint_value(payload: bytes) -> int:
    """Return the number of a varint, cut to 64 bits as parsers do."""
    if len(payload) == 1:
        return payload[0]
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(payload)) & 2**64 - 1


def at(message: bytes, *path: int) -> list[bytes]:
    """Return what stands at a path of field numbers, all of it in order: parsers merge messages that are repeated."""
    found = [message]
    for number in path:
        found = [
            field.payload
            for inner in found
            for field in fields(inner)
            if field.number == number and field.wire == LENGTH
        ]
    return found


def entries_of(entries: list[bytes]) -> dict[str, list[bytes]]:
    """Return a map by its keys: the value fields of each, which are merged if they are messages. The last entry counts.

    An entry with a field that a map's entry doesn't have is none: parsers keep it aside as unknown.
    """
    found: dict[str, list[bytes]] = {}
    for entry in entries:
        parts = fields(entry)
        if all(part.wire == LENGTH and part.number in (1, 2) for part in parts):
            keys = [part.payload for part in parts if part.number == 1]
            found[(keys or [b""])[-1].decode()] = [part.payload for part in parts if part.number == 2]
    return found


def message_in(entries: list[bytes], key: str) -> bytes | None:
    """Return the message under a key of a map, None if there is none."""
    parts = entries_of(entries).get(key)
    return None if parts is None else b"".join(parts)


def text_in(entries: list[bytes], key: str) -> str | None:
    """Return the text under a key of a map of strings, None if there is none."""
    parts = entries_of(entries).get(key)
    return None if parts is None else (parts or [b""])[-1].decode()


def leaf(value: bytes) -> object:
    """Return what a google.protobuf.Value holds, if that is text; else something that is none."""
    kinds = [field for field in fields(value) if (field.number, field.wire) in _VALUE_KINDS]
    return kinds[-1].payload.decode() if kinds and kinds[-1].number == 3 else None


_VALUE_KINDS = {(1, VARINT), (2, FIXED64), (3, LENGTH), (4, VARINT), (5, LENGTH), (6, LENGTH)}


def _field(message: bytes, at_byte: int) -> tuple[Field, int]:
    tag_bytes, at_byte = _varint(message, at_byte)
    tag = varint_value(tag_bytes)
    number, wire = tag >> 3, tag & 7
    if wire == GROUP:
        return _group(message, at_byte, number)
    if wire == VARINT:
        payload, end = _varint(message, at_byte)
        return Field(number, wire, payload), end
    if wire == LENGTH:
        length, at_byte = _varint(message, at_byte)
        size = varint_value(length)
    elif wire in (FIXED64, FIXED32):
        size = 8 if wire == FIXED64 else 4
    else:
        raise NotWire("a wire type that there is not")
    if number == 0 or at_byte + size > len(message):
        raise NotWire("a field that passes the end")
    return Field(number, wire, message[at_byte : at_byte + size]), at_byte + size


def _group(message: bytes, start: int, number: int) -> tuple[Field, int]:
    at_byte = start
    while at_byte < len(message):
        tag, after = _varint(message, at_byte)
        if varint_value(tag) & 7 == _END_GROUP:
            return Field(number, GROUP, message[start:at_byte]), after
        _, at_byte = _field(message, at_byte)
    raise NotWire("a group without its end")


def _varint(message: bytes, start: int) -> tuple[bytes, int]:
    for end in range(start, min(start + 10, len(message))):
        if message[end] < 0x80:
            return message[start : end + 1], end + 1
    raise NotWire("a varint without its end")
