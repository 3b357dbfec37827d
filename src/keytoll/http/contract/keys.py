"""Keys, as they are asked for and as they may be shown."""

from typing import Literal

from pydantic import ConfigDict, Field

from keytoll.core.expiry import format_timestamp
from keytoll.core.keys import KeyStatus
from keytoll.core.money import format_amount, parse_amount
from keytoll.core.quota import Quota, QuotaKind
from keytoll.http.contract.common import (
    Amount,
    Answer,
    Flag,
    KeyId,
    KeyName,
    Model,
    Network,
    OwnerName,
    PageQuery,
    Query,
    Strict,
    Timestamp,
    instant,
    optional_amount,
    optional_timestamp,
    without_defaults,
)
from keytoll.management import UNCHANGED, Access, KeyChanges, Standing
from keytoll.store.base import KeyQuery, KeySort, StoredKey

Sort = Literal[
    "created_at", "-created_at", "name", "-name", "expires_at", "-expires_at", "last_used_at", "-last_used_at"
]


class QuotaIn(Strict):
    """A quota as it is asked for."""

    kind: Literal["unlimited", "monthly", "total"]
    limit: Amount | None = None

    def to_core(self) -> Quota:
        """Return the quota. Raises InvalidValue."""
        limit_nano = None if self.limit is None else parse_amount(self.limit, field="quota.limit")
        return Quota(QuotaKind(self.kind), limit_nano)


class KeyIn(Strict):
    """A key to be created: unlimited and never expiring unless it says otherwise."""

    name: KeyName
    quota: QuotaIn = QuotaIn(kind="unlimited")
    expires_at: Timestamp | None = None
    disabled: bool = False
    allowed_models: list[Model] | None = None
    allowed_networks: list[Network] | None = None

    def access(self) -> Access:
        """Return what the key may be used for."""
        return Access(self.disabled, self.allowed_models, self.allowed_networks)


class RotateIn(Strict):
    """How to rotate a key: the old secret works on until `old_valid_until`, or, if that is null, not at all."""

    old_valid_until: Timestamp | None = None


class KeyPatch(Strict):
    """Changes to a key. What is left out stays.

    An `expires_at` of null means never, `allowed_models` of null or empty all models, `allowed_networks` of null
    everywhere.
    """

    model_config = ConfigDict(json_schema_extra=without_defaults)

    name: KeyName = ""
    quota: QuotaIn = QuotaIn(kind="unlimited")
    expires_at: Timestamp | None = None
    disabled: bool = False
    allowed_models: list[Model] | None = None
    allowed_networks: list[Network] | None = None

    def to_core(self) -> KeyChanges:
        """Return the changes. Raises InvalidValue."""
        given = self.model_fields_set
        return KeyChanges(
            name=self.name if "name" in given else UNCHANGED,
            quota=self.quota.to_core() if "quota" in given else UNCHANGED,
            expires_at_us=instant("expires_at", self.expires_at) if "expires_at" in given else UNCHANGED,
            disabled=self.disabled if "disabled" in given else UNCHANGED,
            allowed_models=self.allowed_models if "allowed_models" in given else UNCHANGED,
            allowed_networks=self.allowed_networks if "allowed_networks" in given else UNCHANGED,
        )


class EditQuery(Query):
    """How to edit: a dry run changes nothing, and tells what the edit would do."""

    dry_run: Flag = False


class KeysQuery(PageQuery):
    """Which keys to list, and in which order: a `sort` with `-` before it is descending."""

    q: str | None = Field(None, min_length=1, max_length=100, description="A part of the name, whatever the case")
    status: KeyStatus | None = None
    quota: QuotaKind | None = None
    sort: Sort = "created_at"

    def to_core(self, owner: str | None) -> KeyQuery:
        """Return the query."""
        return KeyQuery(
            owner=owner,
            text=self.q,
            status=self.status,
            quota=self.quota,
            sort=KeySort(self.sort.removeprefix("-")),
            descending=self.sort.startswith("-"),
            after=self.after,
            limit=self.limit,
        )


class QuotaOut(Answer):
    """A key's quota; the limit is null exactly when it is unlimited."""

    kind: QuotaKind
    limit: Amount | None

    @classmethod
    def of(cls, quota: Quota) -> "QuotaOut":
        """Return the quota."""
        return cls(kind=quota.kind, limit=optional_amount(quota.limit_nano))


class OwnKey(Answer):
    """A key as it tells of itself, in the way of OpenAI's objects; the fields are those of `KeyOut`."""

    object: Literal["key"] = "key"
    name: KeyName
    masked_key: str = Field(examples=["gw-sk-****7f2a"])
    owner: OwnerName
    quota: QuotaOut
    used: Amount
    remaining: Amount | None
    resets_at: Timestamp | None
    expires_at: Timestamp | None
    allowed_models: list[Model] | None

    @classmethod
    def of(cls, stored: StoredKey, standing: Standing) -> "OwnKey":
        """Return the key."""
        shown = KeyOut.of(stored, standing).model_dump()
        return cls(**{name: shown[name] for name in cls.model_fields if name != "object"})


class KeyOut(Answer):
    """A key as it may be shown. `used` is this month's spending under a monthly quota, else all there was.

    `remaining` is what is left of the limit, never below 0 and null without one; what requests under way may cost is
    not counted. `resets_at` is null unless the quota is monthly. `last_used_at` is the newest admission that was settled.
    `old_valid_until` is until when the secret before the last rotation works, null if it doesn't.
    """

    id: KeyId
    name: KeyName
    owner: OwnerName
    masked_key: str = Field(examples=["gw-sk-****7f2a"])
    quota: QuotaOut
    used: Amount
    remaining: Amount | None
    resets_at: Timestamp | None
    expires_at: Timestamp | None
    disabled: bool
    allowed_models: list[Model] | None
    allowed_networks: list[Network] | None
    created_at: Timestamp
    created_by: str
    last_used_at: Timestamp | None
    old_valid_until: Timestamp | None

    @classmethod
    def of(cls, stored: StoredKey, standing: Standing) -> "KeyOut":
        """Return the key."""
        key = stored.key
        return cls(
            id=key.id,
            name=key.name,
            owner=key.owner,
            masked_key=key.masked,
            quota=QuotaOut.of(key.quota),
            used=format_amount(standing.used_nano),
            remaining=optional_amount(standing.left_nano),
            resets_at=optional_timestamp(standing.resets_at_us),
            expires_at=optional_timestamp(key.expires_at_us),
            disabled=key.disabled,
            allowed_models=None if key.allowed_models is None else list(key.allowed_models),
            allowed_networks=None if key.allowed_networks is None else list(key.allowed_networks.texts),
            created_at=format_timestamp(key.created_at_us),
            created_by=key.created_by,
            last_used_at=optional_timestamp(stored.last_used_at_us),
            old_valid_until=optional_timestamp(standing.old_valid_until_us),
        )


class CreatedKey(KeyOut):
    """A key just made or rotated, with its secret, this once."""

    secret: str


class EditPreviewOut(Answer):
    """What an edit would do, if it were made at the instant `from`. Nothing was changed."""

    before: KeyOut
    after: KeyOut
    effects: list[str]
    from_: Timestamp = Field(serialization_alias="from")


class KeyPage(Answer):
    """A page of keys. `next` is the `after` of the next page, null on the last."""

    data: list[KeyOut]
    next: str | None
