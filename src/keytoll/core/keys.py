"""API keys: the secret's form, and what is kept of it.

A secret is `gw-sk-`, 43 base62 characters (256 random bits) and 6 base62 characters of the CRC-32 of all that stands
before. A typo or a random guess is so refused without a lookup, and scanners can recognise a leaked key. What is stored
is its SHA-256, which needs no salt nor stretching at 256 bits of randomness, and its last four characters.
"""

import hashlib
import re
import zlib
from dataclasses import dataclass, field

from keytoll.core.access import Networks
from keytoll.core.errors import InvalidValue
from keytoll.core.quota import Quota

KEY_PREFIX = "gw-sk-"
MAX_NAME_LENGTH = 100

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY_LENGTH, _CHECKSUM_LENGTH = 43, 6
_SECRET = re.compile(rf"{KEY_PREFIX}[0-9A-Za-z]{{{_BODY_LENGTH + _CHECKSUM_LENGTH}}}", re.ASCII)
_OWNER = re.compile(r"(?:users|organizations)/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is kept. `digest` is the secret's SHA-256; instants are microseconds since the UNIX epoch.

    `old_digest` is that of the secret before the last rotation, if it works on until `old_valid_until_us`. Of
    `allowed_models` and `allowed_networks`, None means all.
    """

    id: str
    owner: str
    name: str
    digest: bytes = field(repr=False)
    last4: str
    quota: Quota
    expires_at_us: int | None
    created_at_us: int
    created_by: str = "operator"
    disabled: bool = False
    allowed_models: tuple[str, ...] | None = None
    allowed_networks: Networks | None = None
    old_digest: bytes | None = field(default=None, repr=False)
    old_valid_until_us: int | None = None

    def __post_init__(self) -> None:
        if (self.old_digest is None) != (self.old_valid_until_us is None):
            raise ValueError("an old secret is valid until some time")

    @property
    def digests(self) -> tuple[bytes, ...]:
        """What leads to the key: the digest of its secret, and of the one before if it may work on."""
        return (self.digest,) if self.old_digest is None else (self.digest, self.old_digest)

    def allows(self, model: str) -> bool:
        """Return whether the key may use a model."""
        return self.allowed_models is None or model in self.allowed_models

    @property
    def masked(self) -> str:
        """The key as it may be shown after its creation: `gw-sk-****7f2a`."""
        return f"{KEY_PREFIX}****{self.last4}"


def mint_secret(random: bytes) -> str:
    """Return the secret that 32 random bytes make."""
    if len(random) != 32:
        raise ValueError("a secret is made of 32 random bytes")
    head = KEY_PREFIX + _base62(int.from_bytes(random), _BODY_LENGTH)
    return head + _checksum(head)


def is_well_formed(secret: str) -> bool:
    """Return whether the text has a secret's form and its checksum is right."""
    if _SECRET.fullmatch(secret) is None:
        return False
    return _checksum(secret[:-_CHECKSUM_LENGTH]) == secret[-_CHECKSUM_LENGTH:]


def digest_of(secret: str) -> bytes:
    """Return what is stored and looked up in place of the secret: its SHA-256."""
    return hashlib.sha256(secret.encode("ascii")).digest()


def check_name(name: str) -> str:
    """Return the name of a key, trimmed. Any script and emoji will do; it must not be empty, too long or control."""
    name = name.strip()
    if not name:
        raise InvalidValue("name", "must not be empty")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidValue("name", f"must have at most {MAX_NAME_LENGTH} characters")
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise InvalidValue("name", "must not hold control characters")
    return name


def check_owner(owner: str) -> str:
    """Return the owner if it is `users/NAME` or `organizations/NAME`."""
    if _OWNER.fullmatch(owner) is None:
        raise InvalidValue(
            "owner",
            "must be users/NAME or organizations/NAME; a NAME has 1 to 64 letters, digits, dots, dashes and underscores"
            " and starts and ends with a letter or digit",
        )
    return owner


def _checksum(head: str) -> str:
    return _base62(zlib.crc32(head.encode("ascii")), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
