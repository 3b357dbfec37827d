"""Mutations of valid messages: of their bytes, of their protobuf fields, of their JSON."""

import json
import struct
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any

from fuzz.wire import FIXED64, LENGTH, VARINT, Field, NotWire, encoded, encoded_field, fields, varint

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]
"""From a message, and others to take parts of, to what becomes of it."""


def mutated(rng: Random, message: bytes, others: Sequence[bytes], mutations: Sequence[Mutation]) -> bytes:
    """Return the message after one to three mutations; one in sixteen stays as it is."""
    if rng.random() < 1 / 16:
        return message
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        message = rng.choice(mutations)(rng, message, others)
    return message


def _place(rng: Random, message: bytes) -> int:
    return rng.randrange(len(message) + 1)


def _flip_bits(rng: Random, message: bytes, __: Sequence[bytes]) -> bytes:
    changed = bytearray(message)
    for _ in range(rng.choice((1, 1, 2, 8)) if message else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: Random, message: bytes, _: Sequence[bytes]) -> bytes:
    return message[: _place(rng, message)]


def _insert(rng: Random, message: bytes, _: Sequence[bytes]) -> bytes:
    place = _place(rng, message)
    added = rng.choice((rng.randbytes(rng.randrange(1, 9)), b"\0", b"\xff" * 9, b"\n", b'"', b"{", b"\x80" * 11))
    return message[:place] + added + message[place:]


def _repeat_part(rng: Random, message: bytes, _: Sequence[bytes]) -> bytes:
    start, end = sorted((_place(rng, message), _place(rng, message)))
    return message[:end] + message[start:end] * rng.choice((1, 1, 2, 5)) + message[end:]


def _drop_part(rng: Random, message: bytes, _: Sequence[bytes]) -> bytes:
    start, end = sorted((_place(rng, message), _place(rng, message)))
    return message[:start] + message[end:]


def _splice(rng: Random, message: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return message[: _place(rng, message)] + other[_place(rng, other) :]


def _join(rng: Random, message: bytes, others: Sequence[bytes]) -> bytes:
    """Two messages, one after the other: protobuf merges them."""
    return message + rng.choice(others)


BYTES: tuple[Mutation, ...] = (_flip_bits, _truncate, _insert, _repeat_part, _drop_part, _splice, _join)


_NUMBERS = (0.0, -0.0, -1.0, 0.5, 1e308, 2.0**53, 2.0**63, 2.0**64, float("inf"), float("-inf"), float("nan"))
_VARINTS = (0, 1, 4_294_967_295, 2**63 - 1, 2**63, 2**64 - 1)
_PAYLOADS = (
    b"",
    b"\xff\xfe",
    b"\0",
    b"9" * 5000,
    b"-1",
    b"authorization",
    b"content-length",
    b"full",
    b"key",
    b"envoy.filters.http.ext_authz",
    b"kt.req",
    "\u0661".encode(),
)


def _edit_fields(rng: Random, message: bytes, others: Sequence[bytes]) -> bytes:
    """Edit the fields of the message, or of one of the messages in it."""
    try:
        return _edited(rng, message, others)
    except NotWire:
        return _flip_bits(rng, message, others)


def _edited(rng: Random, message: bytes, others: Sequence[bytes]) -> bytes:
    parts = fields(message)
    if not parts:
        return message
    chosen = rng.randrange(len(parts))
    part = parts[chosen]
    if part.wire == LENGTH and part.payload and rng.random() < 0.8:
        try:
            inner = _edited(rng, part.payload, others)
        except NotWire:
            pass
        else:
            return encoded([*parts[:chosen], part._replace(payload=inner), *parts[chosen + 1 :]])
    return rng.choice(_FIELD_EDITS)(rng, parts, chosen, others)


def _field_dropped(_: Random, parts: list[Field], chosen: int, __: Sequence[bytes]) -> bytes:
    return encoded(parts[:chosen] + parts[chosen + 1 :])


def _field_repeated(rng: Random, parts: list[Field], chosen: int, _: Sequence[bytes]) -> bytes:
    return encoded([*parts, *[parts[chosen]] * rng.choice((1, 1, 50))])


def _fields_swapped(rng: Random, parts: list[Field], chosen: int, _: Sequence[bytes]) -> bytes:
    other = rng.randrange(len(parts))
    parts[chosen], parts[other] = parts[other], parts[chosen]
    return encoded(parts)


def _payloads_swapped(rng: Random, parts: list[Field], chosen: int, _: Sequence[bytes]) -> bytes:
    other = rng.randrange(len(parts))
    if parts[chosen].wire == parts[other].wire:
        one, two = parts[chosen], parts[other]
        parts[chosen], parts[other] = one._replace(payload=two.payload), two._replace(payload=one.payload)
    return encoded(parts)


def _field_renumbered(rng: Random, parts: list[Field], chosen: int, _: Sequence[bytes]) -> bytes:
    parts[chosen] = parts[chosen]._replace(number=rng.choice((1, 2, 3, 4, 5, 6, 10, 11, 17, 536_870_911)))
    return encoded(parts)


def _length_edited(rng: Random, parts: list[Field], chosen: int, _: Sequence[bytes]) -> bytes:
    wrong = encoded_field(parts[chosen], length_error=rng.choice((-2, -1, 1, 2, 127, 2**31, 2**63)))
    return encoded(parts[:chosen]) + wrong + encoded(parts[chosen + 1 :])


def _payload_replaced(rng: Random, parts: list[Field], chosen: int, others: Sequence[bytes]) -> bytes:
    part = parts[chosen]
    if part.wire == FIXED64:
        payload = struct.pack("<d", rng.choice(_NUMBERS))
    elif part.wire == VARINT:
        payload = varint(rng.choice(_VARINTS))
    else:
        payload = rng.choice((*_PAYLOADS, rng.choice(others)))
    parts[chosen] = part._replace(payload=payload[:4].ljust(4, b"\0") if part.wire not in (0, 1, 2) else payload)
    return encoded(parts)


def _kind_of_value_changed(rng: Random, parts: list[Field], chosen: int, _: Sequence[bytes]) -> bytes:
    """Put another kind of google.protobuf.Value there: null, a number, text, a boolean, nothing."""
    number = Field(2, FIXED64, struct.pack("<d", rng.choice(_NUMBERS)))
    kinds = (Field(1, VARINT, b"\0"), number, Field(3, LENGTH, rng.choice(_PAYLOADS)), Field(4, VARINT, b"\1"))
    parts[chosen] = rng.choice(kinds)
    return encoded(parts if rng.random() < 0.9 else [])


def _nested_deeply(rng: Random, parts: list[Field], chosen: int, _: Sequence[bytes]) -> bytes:
    """Put lists in lists there, which google.protobuf.Value allows; parsers stop at 100 messages or so."""
    parts[chosen] = Field(6, LENGTH, _nest(rng.choice((5, 30, 45, 49, 60, 1000))))
    return encoded(parts)


@cache
def _nest(depth: int) -> bytes:
    values = b""
    for _ in range(depth):
        values = encoded([Field(1, LENGTH, encoded([Field(6, LENGTH, values)]))])
    return values


_FIELD_EDITS: tuple[Callable[[Random, list[Field], int, Sequence[bytes]], bytes], ...] = (
    _field_dropped,
    _field_repeated,
    _fields_swapped,
    _payloads_swapped,
    _field_renumbered,
    _length_edited,
    *[_payload_replaced] * 3,
    *[_kind_of_value_changed] * 3,
    _nested_deeply,
)

PROTOBUF: tuple[Mutation, ...] = (*BYTES, *[_edit_fields] * (3 * len(BYTES)))


_TOKENS = (
    *(b"null", b"true", b"false", b"0", b"-1", b"1.5", b"200.0", b"1e3", b"1e400", b"-1e400", b"NaN", b"Infinity"),
    *(b"-Infinity", b"9007199254740991", b"9007199254740993", b"9223372036854775808", b"18446744073709551616"),
    *(b"9" * 400, b"-" + b"9" * 400, b"9" * 5000, b'""', b'" "', rb'"\ud800"', rb'"\u0000"', rb'"\n"'),
    *('"\u0661\u0662"'.encode(), b'" 12 "', b'"1_0"', b'"+1"', b'"-1"', b'"1e3"', b'"-' + b"9" * 400 + b'"'),
    *(b'"' + b"9" * 5000 + b'"', b'"unbounded"', b'"1 1 1 1"', b'"-1 0 0"', b'"9999999999 1 1"', b'"2026-13"'),
    *(b"[]", b"{}", b"[1]", b'{"a":1}', b"[" * 3000 + b"]" * 3000, b'{ "a":' * 2000 + b"1" + b"}" * 2000),
    b'{"a":' * 80 + b"1" + b"}" * 80,
)
_MARK = "\x02a token\x02"


def _replace_leaf(rng: Random, message: bytes, others: Sequence[bytes]) -> bytes:
    """Put a token of another type or size, or another record's value, in the place of a value."""
    record = _loaded(message)
    places = list(_places(record))
    if not places:
        return _flip_bits(rng, message, others)
    container, name = rng.choice(places)
    container[name] = _MARK
    token = rng.choice(_TOKENS)
    if rng.random() < 0.2 and (borrowed := list(_places(_loaded(rng.choice(others))))):
        container_there, name_there = rng.choice(borrowed)
        token = json.dumps(container_there[name_there]).encode()
    return json.dumps(record).encode().replace(json.dumps(_MARK).encode(), token)


def _swap_leaves(rng: Random, message: bytes, others: Sequence[bytes]) -> bytes:
    record = _loaded(message)
    places = list(_places(record))
    if not places:
        return _flip_bits(rng, message, others)
    (one, name), (two, other_name) = rng.choice(places), rng.choice(places)
    if isinstance(one[name], dict | list) or isinstance(two[other_name], dict | list):
        return message  # one might come to hold itself
    one[name], two[other_name] = two[other_name], one[name]
    return json.dumps(record).encode()


def _drop_leaf(rng: Random, message: bytes, others: Sequence[bytes]) -> bytes:
    record = _loaded(message)
    places = list(_places(record))
    if not places:
        return _flip_bits(rng, message, others)
    container, name = rng.choice(places)
    del container[name]
    return json.dumps(record).encode()


def _repeat_name(rng: Random, message: bytes, others: Sequence[bytes]) -> bytes:
    """Give a name a second time, or a new one, with any token as its value."""
    record = _loaded(message)
    names = [name for _, name in _places(record) if isinstance(name, str)]
    if not names:
        return _flip_bits(rng, message, others)
    added = json.dumps(rng.choice(names)).encode() + b": " + rng.choice(_TOKENS)
    places = [place for place, byte in enumerate(message) if byte == ord("{") or byte == ord("}")]
    place = rng.choice(places)
    if message[place] == ord("{"):
        return message[: place + 1] + added + b", " + message[place + 1 :]
    return message[:place] + b", " + added + message[place:]


JSON: tuple[Mutation, ...] = (
    *BYTES,
    *[_replace_leaf] * (2 * len(BYTES)),
    *[_swap_leaves, _drop_leaf, _repeat_name] * 2,
)


def _loaded(message: bytes) -> Any:
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        return None


def _places(record: Any) -> list[tuple[Any, Any]]:
    """Return the places of values: the container of each, and its name or index there."""
    found: list[tuple[Any, Any]] = []
    waiting = [record]
    while waiting and len(found) < _MOST_PLACES:
        container = waiting.pop()
        if isinstance(container, dict | list):
            names = list(container) if isinstance(container, dict) else range(len(container))
            found += [(container, name) for name in names]
            waiting += [container[name] for name in names]
    return found


_MOST_PLACES = 200
