"""Log entries: from what Envoy's journal or its gRPC access log (ALS) say to core's `Entry`.

Both sources give the same entry for the same request, so that either, or both, settle it once.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict

from keytoll.core.ledger import Entry, usage_from
from keytoll.core.months import is_month
from keytoll.core.pricing import Prices
from keytoll.core.rates import Rates
from keytoll.envoy.messages.access_log_pb2 import HttpAccessLogEntry
from keytoll.settlement import Logged

CHECK = "envoy.filters.http.ext_authz"
"""The metadata namespace of Check's answer."""

USAGE = "kt.usage"
"""The metadata namespace in which envoy.yaml leaves the usage that a backend reported."""

SCRIPT = "kt.lua"
"""The metadata namespace in which request.lua counts a stream."""

UNBOUNDED = "unbounded"
"""What stands for the amount of a hold that can't be bounded."""

_DOWNSTREAM_END = 6  # envoy.data.accesslog.v3.AccessLogType


class UnreadableEntry(ValueError):
    """The entry isn't one of ours or lacks what settlement needs."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A request that ended before Envoy had Check's answer, so that it didn't run, by Envoy's own id of it."""

    request_id: str


def shared_facts(
    *, model: str, endpoint: str, price_id: str, prices: Prices, month: str, rates: Rates
) -> dict[str, str | float | bool]:
    """Return what a log entry must carry back of those facts that many requests share, as Check's metadata.

    The others are the decision's id, the key's and its owner, the admission's instant and the hold. Large numbers are
    text: Envoy's are doubles.
    """
    return {
        "model": model,
        "endpoint": endpoint,
        "price_id": price_id,
        "prices": prices.as_text,
        "month": month,
        "rates": f"{rates.input_byte} {rates.output_byte} {rates.event}",
    }


def from_journal(line: bytes) -> Logged | Gone | None:
    """Return what one line of the journal tells; None if its request isn't over yet, or has no id. Raises UnreadableEntry."""
    try:
        record = json.loads(line)
        if record["type"] != "DownstreamEnd":
            return None
        if "gone" in record:
            return _gone(record["gone"])
        return Logged(
            prices=_prices(record["check"]),
            entry=_entry(
                record["check"],
                status=record["status"],
                attempts=record["attempts"],
                usage=record["usage"],
                script=record.get("lua"),
                request_bytes=record.get("received"),
                answer_bytes=record.get("sent"),
            ),
            ended_at_us=_seconds_to_us(record["start"]) + _count(record["ms"]) * 1000,
        )
    except _MISTAKES as error:
        raise _unreadable(error) from error


def from_als(message: HttpAccessLogEntry) -> Logged | None:
    """Return the entry of one ALS record; None if it isn't an admitted request that is over. Raises UnreadableEntry."""
    common = message.common_properties
    metadata = common.metadata.filter_metadata
    if common.access_log_type not in (0, _DOWNSTREAM_END) or CHECK not in metadata:
        return None
    try:
        check = MessageToDict(metadata[CHECK])
        return Logged(
            prices=_prices(check),
            entry=_entry(
                check,
                status=message.response.response_code.value,
                attempts=common.upstream_request_attempt_count,
                usage=MessageToDict(metadata[USAGE]) if USAGE in metadata else None,
                script=MessageToDict(metadata[SCRIPT]) if SCRIPT in metadata else None,
                request_bytes=message.request.request_body_bytes,
                answer_bytes=message.response.response_body_bytes,
            ),
            ended_at_us=common.start_time.ToMicroseconds() + common.time_to_last_downstream_tx_byte.ToMicroseconds(),
        )
    except _MISTAKES as error:
        raise _unreadable(error) from error


_MISTAKES = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


def _unreadable(error: Exception) -> UnreadableEntry:
    return UnreadableEntry(f"{type(error).__name__}: {error}")


_MAX_REQUEST_ID = 64
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WHOLE = re.compile(r"\d{1,19}", re.ASCII)
_SECONDS = re.compile(r"(\d{1,12})\.(\d{1,6})", re.ASCII)
_MAX_RATE = 1_000_000


def _entry(
    check: Mapping[str, Any],
    *,
    status: Any,
    attempts: Any,
    usage: Any,
    script: Any,
    request_bytes: Any,
    answer_bytes: Any,
) -> Entry:
    decision_id, key_id, owner, model, endpoint, price_id, admitted_at_us, month, hold, rates = _texts(check)
    return Entry(
        decision_id=_decision_id(decision_id),
        key_id=key_id,
        owner=owner,
        model=model,
        endpoint=endpoint,
        price_id=price_id,
        admitted_at_us=_whole(admitted_at_us),
        month=_month(month),
        status=_count(status),
        attempts=_count(attempts),
        reported=usage_from(usage) if usage is not None else None,
        request_bytes=_count(request_bytes),
        answer_bytes=_count(answer_bytes),
        events=_events(script),
        hold_nano=None if hold == UNBOUNDED else _whole(hold),
        rates=_rates(rates),
    )


def _gone(request_id: Any) -> Gone | None:
    return Gone(request_id) if isinstance(request_id, str) and 0 < len(request_id) <= _MAX_REQUEST_ID else None


def _prices(check: Mapping[str, Any]) -> Prices:
    """Return the unit prices that Check put in, so that a charge depends on nothing that is kept elsewhere."""
    prices, price_id = _named_prices(_text(check, "prices"))
    if price_id != check["price_id"]:
        raise ValueError("the prices are not those that their id names")
    return prices


@lru_cache(maxsize=1024)
def _named_prices(text: str) -> tuple[Prices, str]:
    prices = Prices.from_text(text)
    return prices, prices.id


@lru_cache(maxsize=1024)
def _rates(text: str) -> Rates:
    input_byte, output_byte, event = map(_whole, text.split(" "))
    rates = Rates(input_byte, output_byte, event)
    if max(rates.input_byte, rates.output_byte, rates.event) > _MAX_RATE:
        raise ValueError("a rate is out of range")
    return rates


def _events(script: Any) -> int | None:
    """Return how many events the answer had, None if it was no stream."""
    stream = script.get("stream") if script is not None else None
    return None if stream is None else _count(stream["events"])


_TEXTS = (
    "decision_id",
    "key_id",
    "owner",
    "model",
    "endpoint",
    "price_id",
    "admitted_at_us",
    "month",
    "hold_nano",
    "rates",
)
_taken = itemgetter(*_TEXTS)


def _texts(check: Mapping[str, Any]) -> Sequence[str]:
    """Return all texts of an entry. Together they are looked at in a fraction of the time; a fault is then named."""
    texts: tuple[str, ...] = _taken(check)
    if not all(texts) or not _is_printable(texts):
        texts = tuple(_text(check, name) for name in _TEXTS)
    return texts


def _is_printable(texts: Iterable[Any]) -> bool:
    try:
        return "".join(texts).isprintable()
    except TypeError:
        return False


def _text(check: Mapping[str, Any], name: str) -> str:
    """Return a text as Check writes them. What no store can keep would hold up all entries that follow it."""
    value: str = check[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    if not value or not value.isprintable():  # a lone surrogate is none either
        raise ValueError(f"{name} is empty or not printable")
    return value


def _decision_id(text: str) -> UUID:
    if _UUID.fullmatch(text) is None:  # UUID() reads several spellings
        raise ValueError("decision_id is not as Check writes it")
    return UUID(int=int(text.replace("-", ""), 16))


@lru_cache(maxsize=64)
def _month(text: str) -> str:
    if not is_month(text):
        raise ValueError("month is not one")
    return text


def _whole(text: str) -> int:
    if _WHOLE.fullmatch(text) is None or (value := int(text)) >= 2**63:  # int() reads signs, spaces and underscores
        raise ValueError("a number is out of range")
    return value


def _count(value: Any) -> int:
    """Return a number of the log; Envoy writes null where it has none. Metadata has doubles only."""
    if type(value) is int and 0 <= value < 2**53:  # nearly all of them
        return value
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or not 0 <= value < 2**53:
        raise TypeError("a count is not a whole number")
    return int(value)


def _seconds_to_us(text: str) -> int:
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise ValueError("an instant is not in seconds")
    return int(match[1]) * 1_000_000 + int(match[2].ljust(6, "0"))
