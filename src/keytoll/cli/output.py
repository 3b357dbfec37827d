"""How commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import typer

from keytoll.core.expiry import parse_timestamp
from keytoll.core.money import currency_symbol
from keytoll.core.months import to_datetime

_WIDE = 10_000
_BOUNDLESS = 100_000
_TOKENS = {
    "Input": "input_tokens",
    "Cached": "cached_input_tokens",
    "Cache write": "cache_write_tokens",
    "Output": "output_tokens",
    "Reasoning": "reasoning_tokens",
    "Audio in": "audio_input_tokens",
    "Audio out": "audio_output_tokens",
}
_ALWAYS = frozenset({"Input", "Cached", "Output"})
_WHOLE = frozenset({"ID", "Key", "Key ID", "Corrected by"})
"""Columns of ids: always in one piece, to be copied."""


def print_json(value: object) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[str] = frozenset()) -> None:
    """Print a table; the columns in `right` are aligned there. Nothing is cut off: too long cells go on below.

    What is too wide for the terminal even so is left to the terminal to wrap: half an amount would look like another one.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, overflow="fold", justify=justify, no_wrap=column in _WHOLE)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a name such as "[red]" or ":rocket:" must not be taken for markup
    width = Console().width if sys.stdout.isatty() else _WIDE
    needed = Console(width=_BOUNDLESS).measure(table).minimum
    Console(width=max(width, needed)).print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print what is known of one thing as a table."""
    print_table(["Field", "Value"], [[name, fact] for name, fact in facts.items()])


def print_secret(made: Mapping[str, Any]) -> None:
    """Print a secret, this once."""
    typer.echo(f"\n    {made['secret']}\n")
    typer.echo("Store it safely now: it is not kept here and will not be shown again.")


def amount(text: str, about: Mapping[str, str]) -> str:
    """Return a decimal string with the currency: `¥45.50`."""
    return currency_symbol(about["currency"]) + text


def optional_amount(text: str | None, about: Mapping[str, str], *, otherwise: str) -> str:
    """Return a decimal string with the currency, or what is said where there is none."""
    return otherwise if text is None else amount(text, about)


def token_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the columns of token classes, each with its field: the usual ones, and what else was used in any row."""
    return {name: field for name, field in _TOKENS.items() if name in _ALWAYS or any(row[field] for row in rows)}


def quota(key: Mapping[str, Any], about: Mapping[str, str]) -> str:
    """Return what is used and the limit: `¥45.50 / ¥100.00 monthly`, `¥45.50 / Unlimited`."""
    limit, kind = key["quota"]["limit"], key["quota"]["kind"]
    ceiling = "Unlimited" if limit is None else f"{amount(limit, about)} {kind}"
    return f"{amount(key['used'], about)} / {ceiling}"


def status(key: Mapping[str, Any], about: Mapping[str, str]) -> str:
    """Return when a key expires, and whether it is disabled: `Never, disabled`."""
    return expiration(key["expires_at"], about) + (", disabled" if key["disabled"] else "")


def listed(items: Sequence[str] | None, *, otherwise: str) -> str:
    """Return a list, or what is said where there is none."""
    return otherwise if items is None else ", ".join(items)


def when(timestamp: str, about: Mapping[str, str]) -> str:
    """Return the time in the billing zone, to the minute: `2026-12-31 18:00`."""
    return f"{_local(timestamp, about):%Y-%m-%d %H:%M}"


def optional_time(timestamp: str | None, about: Mapping[str, str], *, prefix: str = "") -> str:
    """Return the time in the billing zone, to the minute, or `-` where there is none."""
    return "-" if timestamp is None else prefix + when(timestamp, about)


def exactly(timestamp: str, about: Mapping[str, str]) -> str:
    """Return the time in the billing zone, whole and with its offset: `2026-12-31T18:00:00.250000+08:00`."""
    return _local(timestamp, about).isoformat()


def expiration(timestamp: str | None, about: Mapping[str, str]) -> str:
    """Return when a key expires. The end of a day is told as that day's 24:00, so that the day given is the day shown."""
    if timestamp is None:
        return "Never"
    local = _local(timestamp, about)
    if local.time() == time(0):
        return f"{local - timedelta(days=1):%Y-%m-%d} 24:00"
    return f"{local:%Y-%m-%d %H:%M}"


def _local(timestamp: str, about: Mapping[str, str]) -> datetime:
    return to_datetime(parse_timestamp(timestamp, field="time")).astimezone(ZoneInfo(about["billing_time_zone"]))
