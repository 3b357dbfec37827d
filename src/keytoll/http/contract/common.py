"""What all of the contract is made of: strictness, pages, instants and amounts."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from keytoll.core.expiry import format_timestamp, parse_timestamp
from keytoll.core.money import format_amount
from keytoll.management import MAX_PAGE


@dataclass(frozen=True, slots=True)
class About:
    """What a client must know of a deployment to show its times and amounts, and how to call models.

    `base_url` is where callers reach the gateway, null if the operator has not told.
    """

    version: str
    currency: str
    billing_time_zone: str
    base_url: str | None


class Strict(BaseModel):
    """A body: unknown fields are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Answer(BaseModel):
    """What an answer holds."""


def without_defaults(schema: dict[str, Any]) -> None:
    """Take the defaults out of a schema whose fields may be left out, but then have no value at all."""
    for field in schema["properties"].values():
        field.pop("default", None)


class Query(BaseModel):
    """Query parameters. Unknown names are refused like unknown fields."""

    model_config = ConfigDict(extra="forbid")


class NoQuery(Query):
    """No query at all: a change must not be made for real because its `dry_run` is not known."""


def _number(text: object) -> object:
    # Else `1_0`, ` 10` and `10.0` would do as well.
    if isinstance(text, str) and re.fullmatch(r"-?[0-9]{1,9}", text, re.ASCII) is None:
        raise ValueError("must be a whole number")
    return text


def _flag(text: object) -> object:
    if isinstance(text, str) and text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text


Number = Annotated[int, BeforeValidator(_number)]
"""A whole number in a query, where all is text."""

Flag = Annotated[bool, BeforeValidator(_flag)]
"""A boolean in a query."""


Timestamp = Annotated[str, Field(examples=["2026-11-27T12:00:00Z"])]
"""An instant in RFC 3339."""

Amount = Annotated[str, Field(examples=["45.50"])]
"""A decimal string in the deployment's currency."""

OwnerName = Annotated[str, Field(examples=["users/alice"])]
"""`users/NAME` or `organizations/NAME`."""

KeyId = Annotated[str, Field(examples=["key_0193a5c0d2a07e6f8b1c2d3e4f506172"])]
"""A key's id."""

KeyName = Annotated[str, Field(examples=["production"])]
"""What people call a key."""

Model = Annotated[str, Field(examples=["Qwen2.5-72B-Instruct"])]
"""A model by the name of the catalog."""

Network = Annotated[str, Field(examples=["10.0.0.0/8"])]
"""A network, or an address."""


class NotYetOut(Answer):
    """A replica that may admit requests by the state before a change, until an instant at most."""

    replica: str = Field(examples=["keytoll-2-5f1c09ab"])
    until: Timestamp


class NotEverywhereOut(Answer):
    """A change that was made, but that not all replicas have confirmed within the deadline."""

    not_yet: list[NotYetOut]


class PageQuery(Query):
    """Which page of a list: the one after the cursor `after`, which is the `next` of the page before."""

    after: str | None = Field(None, max_length=100, description="The `next` of the page before; none for the first")
    limit: Number = Field(100, ge=1, le=MAX_PAGE, description="How many entries a page has at most")


def instant(field: str, text: str | None) -> int | None:
    """Return the microseconds of an RFC 3339 timestamp, None for none. Raises InvalidValue."""
    return None if text is None else parse_timestamp(text, field=field)


def optional_timestamp(at_us: int | None) -> str | None:
    """Return an instant as it is told, null for none."""
    return None if at_us is None else format_timestamp(at_us)


def optional_amount(nano: int | None) -> str | None:
    """Return an amount as it is told, null for none."""
    return None if nano is None else format_amount(nano)
