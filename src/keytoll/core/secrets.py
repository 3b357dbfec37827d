"""Secrets that people hold: API keys (`gw-sk-…`) and access tokens (`gw-at-…`), and what is kept of them.

A secret is its prefix, 43 base62 characters (256 random bits) and 6 base62 characters of the CRC-32 of all that stands
before. A typo or a random guess is so refused without a lookup, and scanners can recognise a leaked one. What is stored
is its SHA-256, which needs no salt nor stretching at 256 bits of randomness, and its last four characters. Secrets are
looked up by that hash, so how long a comparison takes tells nothing of them.
"""

import hashlib
import re
import zlib

KEY_PREFIX = "gw-sk-"
TOKEN_PREFIX = "gw-at-"  # noqa: S105 - where every access token begins

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY_LENGTH, _CHECKSUM_LENGTH = 43, 6
_BODY = re.compile(rf"[0-9A-Za-z]{{{_BODY_LENGTH + _CHECKSUM_LENGTH}}}", re.ASCII)


def mint(prefix: str, random: bytes) -> str:
    """Return the secret that 32 random bytes make."""
    if len(random) != 32:
        raise ValueError("a secret is made of 32 random bytes")
    head = prefix + _base62(int.from_bytes(random), _BODY_LENGTH)
    return head + _checksum(head)


def is_well_formed(prefix: str, secret: str) -> bool:
    """Return whether the text has the form of a secret with this prefix, and its checksum is right."""
    if not secret.startswith(prefix) or _BODY.fullmatch(secret, len(prefix)) is None:
        return False
    return _checksum(secret[:-_CHECKSUM_LENGTH]) == secret[-_CHECKSUM_LENGTH:]


def digest_of(secret: str) -> bytes:
    """Return what is stored and looked up in place of the secret: its SHA-256."""
    return hashlib.sha256(secret.encode("ascii")).digest()


def masked(prefix: str, last4: str) -> str:
    """Return a secret as it may be shown after its creation: `gw-sk-****7f2a`."""
    return f"{prefix}****{last4}"


def _checksum(head: str) -> str:
    return _base62(zlib.crc32(head.encode("ascii")), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
