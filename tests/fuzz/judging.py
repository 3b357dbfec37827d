"""What a log entry says, judged without the code under test: is it one that may be charged, and with how much?"""

import json
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from settlement.conftest import PRICES

from fuzz import wire
from keytoll.core.ledger import Charge

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MONTH = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")
_RATES = re.compile(r"[0-9]{1,7} [0-9]{1,7} [0-9]{1,7}")
_NAMES = ("key_id", "owner", "model", "endpoint", "price_id")
_IN_ONE_TEXT = (
    "admitted_at_us",
    "hold_nano",
    "key_id",
    "owner",
    "model",
    "endpoint",
    "month",
    "price_id",
    "prices",
    "rates",
)


class Facts(NamedTuple):
    """What decides who is charged, for what and when."""

    decision_id: str
    names: tuple[str, ...]
    month: str
    admitted_at_us: int
    hold_nano: int | None
    status: int
    attempts: int


class Told(NamedTuple):
    """Facts, and the usage that the entry tells; None where it tells none at all."""

    facts: Facts
    usage: Mapping[str, object] | None


def told_by_line(line: bytes) -> Iterator[Told]:
    """Return what a line of the journal tells: all of it, or, where a torn line stands before it, what ends it."""
    starts = [0, *(match.start() for match in re.finditer(rb'\{"', line))]
    for start in starts:
        try:
            record = json.loads(line[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and (told := _told(record)) is not None:
            yield told


def _told(record: Mapping[str, Any]) -> Told | None:
    check, usage = record.get("check", record), record.get("usage")
    if record.get("type") != "DownstreamEnd" or not isinstance(check, dict) or not isinstance(usage, dict | None):
        return None
    facts = _facts(check, _whole(record.get("status")), _whole(record.get("attempts")))
    return None if facts is None else Told(facts, _read(usage))


def _read(usage: dict[str, Any] | None) -> Mapping[str, object] | None:
    """Return what a backend wrote; an answer's usage is there as its text."""
    if usage is None or not isinstance(text := usage.get("usage"), str):
        return usage
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def told_by_als(message: bytes) -> Iterator[Told]:
    """Return what the entries of a StreamAccessLogsMessage tell."""
    for entry in wire.at(message, 2, 1):
        metadata = wire.at(entry, 1, 17, 1)
        check = wire.message_in(metadata, "envoy.filters.http.ext_authz")
        if check is None:
            continue
        code = b"".join(wire.at(entry, 4, 1))
        status = _last_varint(code, 1, bits=32)
        attempts = _last_varint(b"".join(wire.at(entry, 1)), 24, bits=32)
        facts = _facts(_struct(check), status, attempts)
        if facts is not None:
            has_usage = wire.message_in(metadata, "kt.usage") is not None
            yield Told(facts, {"not": "read here"} if has_usage else None)


def _struct(struct: bytes) -> dict[str, object]:
    return {name: wire.leaf(b"".join(parts)) for name, parts in wire.entries_of(wire.at(struct, 1)).items()}


def _last_varint(message: bytes, number: int, *, bits: int) -> int:
    found = [f.payload for f in wire.fields(message) if (f.number, f.wire) == (number, wire.VARINT)]
    return wire.varint_value(found[-1]) & 2**bits - 1 if found else 0


def _facts(check: Mapping[str, object], status: int | None, attempts: int | None) -> Facts | None:
    texts = {name: value for name, value in check.items() if isinstance(value, str)}
    if "entry" in check:
        facts = texts.get("entry", "").split("|")
        if len(facts) != len(_IN_ONE_TEXT):
            return None
        texts = {"decision_id": texts.get("decision_id", ""), **dict(zip(_IN_ONE_TEXT, facts, strict=True))}
    names = tuple(texts.get(name, "") for name in _NAMES)
    admitted, hold = texts.get("admitted_at_us", ""), texts.get("hold_nano", "")
    good = (
        _UUID.fullmatch(texts.get("decision_id", "").lower()),
        _MONTH.fullmatch(texts.get("month", "")),
        _RATES.fullmatch(texts.get("rates", "")),
        all(name and name.isprintable() for name in names),
        (texts.get("price_id"), texts.get("prices"))
        == (PRICES.id, PRICES.as_text),  # no other prices were ever in force
        _is_whole_text(admitted),
        hold == "unbounded" or _is_whole_text(hold),
        status is not None,
        attempts is not None,
    )
    if not all(good) or status is None or attempts is None:
        return None
    bound = None if hold == "unbounded" else int(hold)
    decision_id = texts["decision_id"].lower()
    return Facts(decision_id, names, texts["month"], int(admitted), bound, status, attempts)


def _numbers(text: str) -> list[int]:
    """Return the numbers of a text, none if it holds anything else."""
    try:
        return [int(number) for number in text.split(" ")]
    except ValueError:
        return []


def _is_whole_text(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,19}", text) is not None and int(text) < 2**63


def _whole(value: object) -> int | None:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return None
    return int(value) if value == int(value) else None


def facts_of(charge: Charge) -> Facts:
    """Return the facts that a row of the ledger holds."""
    entry = charge.entry
    names = tuple(getattr(entry, name) for name in _NAMES)
    rest = (entry.month, entry.admitted_at_us, entry.hold_nano, entry.status, entry.attempts)
    return Facts(str(entry.decision_id), names, *rest)


def may_cost(charge: Charge, told: Told) -> bool:
    """Return whether the amount of a row is what its entry allows."""
    amount_nano, facts, usage = charge.amount_nano, told.facts, told.usage
    if facts.status >= 400 or (facts.status == 0 and facts.attempts == 0):
        return amount_nano == 0
    if usage is None and facts.hold_nano is not None:
        return 0 <= amount_nano <= facts.hold_nano
    if usage is not None and usage.keys() == {"prompt_tokens", "completion_tokens"}:
        tokens = [_whole(value) if value is not None else None for value in usage.values()]
        if all(count is not None and count <= 2**40 for count in tokens):
            prompt, completion = (usage["prompt_tokens"], usage["completion_tokens"])
            return amount_nano == _plain_cost(prompt, completion)
    return amount_nano >= 0


def _plain_cost(prompt: Any, completion: Any) -> int:
    return round(Fraction(int(prompt) * PRICES.input + int(completion) * PRICES.output, 1_000_000))
