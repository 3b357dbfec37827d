"""API keys: what is kept of one, how it stands, and its name."""

from dataclasses import dataclass, field
from enum import StrEnum

from keytoll.core.access import Networks
from keytoll.core.errors import InvalidValue
from keytoll.core.quota import Quota
from keytoll.core.secrets import KEY_PREFIX, masked

MAX_NAME_LENGTH = 100


class KeyStatus(StrEnum):
    """How a key stands. Of several that are so, the first one here is told."""

    DISABLED = "disabled"
    EXPIRED = "expired"
    SPENT = "spent"
    ACTIVE = "active"


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
        return masked(KEY_PREFIX, self.last4)


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
