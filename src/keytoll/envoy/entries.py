"""Log entries: from what Envoy's journal or its gRPC access log (ALS) say to core's `Entry`.

Both sources give the same entry for the same request, so that either, or both, settle it once.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import orjson
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


def shared_facts(*, model: str, endpoint: str, price_id: str, prices: Prices, month: str, rates: Rates) -> str:
    """Return the end of an entry's text, which is what settlement must know and comes back in the log: those of its
    facts that many requests share.

    Before them stand the instant of the admission, the hold, the key's id and its owner; behind each a "|", which none
    of them has. It is one text, since Envoy copies, prints and frees each member of Check's metadata by itself.
    """
    rates_text = f"{rates.input_byte} {rates.output_byte} {rates.event}"
    return f"{model}|{endpoint}|{month}|{price_id}|{prices.as_text}|{rates_text}"


def from_journal(line: bytes) -> Logged | Gone | None:
    """Return what one line of the journal tells; None if its request isn't over yet, or has no id. Raises UnreadableEntry."""
    try:
        record = _read(line)
        if record["type"] != "DownstreamEnd":
            return None
        if "gone" in record:
            return _gone(record["gone"])
        facts = _facts(record.get("check", record))
        return Logged(
            prices=_prices(facts),
            entry=_entry(
                facts,
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
        facts = _facts(MessageToDict(metadata[CHECK]))
        return Logged(
            prices=_prices(facts),
            entry=_entry(
                facts,
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


def _read(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)  # which takes a little more, such as half a surrogate pair: what can be read is charged


_MISTAKES = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


def _unreadable(error: Exception) -> UnreadableEntry:
    return UnreadableEntry(f"{type(error).__name__}: {error}")


_MAX_REQUEST_ID = 64
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WHOLE = re.compile(r"\d{1,19}", re.ASCII)
_SECONDS = re.compile(r"(\d{1,12})\.(\d{1,6})", re.ASCII)
_MAX_RATE = 1_000_000


class _Facts(NamedTuple):
    """What Check told of a decision, as it comes back."""

    decision_id: str
    admitted_at_us: str
    hold_nano: str
    key_id: str
    owner: str
    model: str
    endpoint: str
    month: str
    price_id: str
    prices: str
    rates: str


def _facts(told: Mapping[str, Any]) -> _Facts:
    """Return the texts, none of them empty or with what no store can keep: that would hold up all that follow."""
    if "entry" in told:
        facts = _Facts(told["decision_id"], *told["entry"].split("|"))
    else:  # as an earlier Keytoll told them
        facts = _Facts(*(told[name] for name in _Facts._fields))
    if not all(facts) or not "".join(facts).isprintable():  # a lone surrogate is none either
        raise ValueError("a fact is empty or not printable")
    return facts


def _entry(
    facts: _Facts,
    *,
    status: Any,
    attempts: Any,
    usage: Any,
    script: Any,
    request_bytes: Any,
    answer_bytes: Any,
) -> Entry:
    return Entry(
        decision_id=_decision_id(facts.decision_id),
        key_id=facts.key_id,
        owner=facts.owner,
        model=facts.model,
        endpoint=facts.endpoint,
        price_id=facts.price_id,
        admitted_at_us=_whole(facts.admitted_at_us),
        month=_month(facts.month),
        status=_count(status),
        attempts=_count(attempts),
        reported=usage_from(_leaves(usage)) if usage is not None else None,
        request_bytes=_count(request_bytes),
        answer_bytes=_count(answer_bytes),
        events=_events(script),
        hold_nano=None if facts.hold_nano == UNBOUNDED else _whole(facts.hold_nano),
        rates=_rates(facts.rates),
    )


def _leaves(usage: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the counts by the names that core reads. Of a stream Envoy has picked them out, of an answer the text is here."""
    if "usage" in usage:
        return dict(_counts(_object(usage["usage"])))
    if "meta" in usage:
        tokens = _object(usage["meta"]).get("tokens")
        return dict(_counts(tokens)) if isinstance(tokens, dict) else {}
    return usage


def _object(text: str) -> Mapping[str, Any]:
    """Return what a backend wrote, nothing if it is no JSON: then it has reported nothing, and is charged by estimate."""
    try:
        found: Mapping[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found


def _counts(usage: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, value in usage.items():
        if not isinstance(value, dict):
            yield name, value
        elif name in _DETAILS:
            names = _DETAILS[name]
            yield from ((names[detail], count) for detail, count in value.items() if detail in names)


_OF_INPUT = {
    "cached_tokens": "cached_tokens",
    "audio_tokens": "audio_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
}
_OF_OUTPUT = {"audio_tokens": "audio_output_tokens", "reasoning_tokens": "reasoning_tokens"}
_DETAILS = {
    "prompt_tokens_details": _OF_INPUT,
    "input_tokens_details": _OF_INPUT,
    "input_token_details": _OF_INPUT,
    "completion_tokens_details": _OF_OUTPUT,
    "output_tokens_details": _OF_OUTPUT,
}


def _gone(request_id: Any) -> Gone | None:
    return Gone(request_id) if isinstance(request_id, str) and 0 < len(request_id) <= _MAX_REQUEST_ID else None


def _prices(facts: _Facts) -> Prices:
    """Return the unit prices that Check put in, so that a charge depends on nothing that is kept elsewhere."""
    prices, price_id = _named_prices(facts.prices)
    if price_id != facts.price_id:
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
