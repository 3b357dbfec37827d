"""Ids: UUID version 7 (RFC 9562, section 5.7), which sort by the time they were made."""

from uuid import UUID


def uuid7(at_us: int, random: bytes) -> UUID:
    """Return the UUIDv7 of an instant and 10 random bytes."""
    if len(random) != 10:
        raise ValueError("a UUIDv7 takes 10 random bytes")
    milliseconds = (at_us // 1000) & (2**48 - 1)
    return UUID(int=milliseconds << 80 | int.from_bytes(random) & _RANDOM | _VERSION_AND_VARIANT)


_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62
_RANDOM = 2**80 - 1 & ~(0xF << 76 | 0x3 << 62)
