"""The ledger's rules: what one finished request costs its key's owner.

Every admitted request ends in exactly one charge, also a refused or a cut one. A charge is made from the log entry
alone: Check put all that settlement needs into it, so that it doesn't matter when the entry comes nor what was edited
meanwhile.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from keytoll.core.endpoints import BY_NAME, Endpoint
from keytoll.core.pricing import Prices, Usage, cost_nano, tokens_of
from keytoll.core.rates import Rates

_to_json = json.JSONEncoder(ensure_ascii=False).encode


class Measured(StrEnum):
    """How the tokens of a charge were measured: told by the backend, estimated from bytes and events, or not at all."""

    REPORTED = "reported"
    ESTIMATED = "estimated"
    NONE = "none"


class Kind(StrEnum):
    """What a row of the ledger is.

    A `charge` settles a decision. `unsettled`, of amount 0, says that the entry of a decision never came; if it comes
    after all, a `correction` settles the decision and refers to that row.
    """

    CHARGE = "charge"
    UNSETTLED = "unsettled"
    CORRECTION = "correction"


@dataclass(frozen=True, slots=True)
class Reported:
    """The usage that a backend reported; `output_told`: it said how much was generated, not only what was read."""

    usage: Usage
    output_told: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished request, as either access log tells it. Two entries are the same if all of this is the same.

    `status` is what the caller got, 0 if the caller left before it; `attempts` how often a backend was tried. Bytes are
    those of the bodies that the caller sent and got; `events` those of a stream, None if the answer was none.
    `hold_nano` is the worst case that was held, None where it could not be bounded.
    """

    decision_id: UUID
    key_id: str
    owner: str
    model: str
    endpoint: str
    price_id: str
    admitted_at_us: int
    month: str
    status: int
    attempts: int
    reported: Reported | None
    request_bytes: int = 0
    answer_bytes: int = 0
    events: int | None = None
    hold_nano: int | None = None
    rates: Rates = Rates()

    @property
    def fingerprint(self) -> bytes:
        """A hash of the entry's facts: another entry under the same decision id is recognised by it."""
        told = self.reported
        facts = (
            1,  # the version of this list
            self.decision_id.hex,
            self.key_id,
            self.owner,
            self.model,
            self.endpoint,
            self.price_id,
            self.admitted_at_us,
            self.month,
            self.status,
            self.attempts,
            None if told is None else (*tokens_of(told.usage), told.output_told),
            self.request_bytes,
            self.answer_bytes,
            self.events,
            self.hold_nano,
            (self.rates.input_byte, self.rates.output_byte, self.rates.event),
        )
        return hashlib.sha256(_to_json(facts).encode()).digest()


class Admitted(NamedTuple):
    """A decision as it is known from its admission on, until its entry comes.

    Made for every Check, and a tuple is made in a fraction of an entry's time.
    """

    decision_id: UUID
    key_id: str
    owner: str
    model: str
    endpoint: str
    price_id: str
    admitted_at_us: int
    month: str
    hold_nano: int | None
    rates: Rates

    @property
    def entry(self) -> Entry:
        """The entry as the ledger would know it if it never heard of it again."""
        return Entry(**self._asdict(), status=0, attempts=0, reported=None)


@dataclass(frozen=True, slots=True)
class Charge:
    """A row of the ledger. `prices` are the unit prices that `amount_nano` was computed with.

    `day` is that of its admission in the billing zone, `YYYY-MM-DD`.
    """

    id: str
    kind: Kind
    entry: Entry
    prices: Prices
    usage: Usage
    measured: Measured
    amount_nano: int
    day: str
    settled_at_us: int

    @property
    def refers_to(self) -> str | None:
        """The id of the unsettled row that a correction corrects."""
        return _unsettled_id(self.entry) if self.kind is Kind.CORRECTION else None

    @property
    def beyond_hold_nano(self) -> int:
        """By how much the amount is more than the worst case that was held; 0 unless a backend reported so much."""
        held = self.entry.hold_nano
        return 0 if held is None else max(0, self.amount_nano - held)


def settle(entry: Entry, prices: Prices, *, day: str, settled_at_us: int) -> Charge:
    """Return the charge of an entry that was admitted on a `day` of the billing zone.

    What a backend reported is charged as reported, zeros included. A backend's refusal, and what never reached one, is
    free. Where an answer was delivered, or begun, or asked for, and no usage was told, its tokens are estimated: never
    more than the worst case that was held.
    """
    usage, measured = _measure(entry)
    amount_nano = cost_nano(usage, prices) if is_served(entry) else 0
    if measured is not Measured.REPORTED and entry.hold_nano is not None:
        amount_nano = min(amount_nano, entry.hold_nano)
    return Charge(
        id=f"chg_{entry.decision_id.hex}",
        kind=Kind.CHARGE,
        entry=entry,
        prices=prices,
        usage=usage,
        measured=measured,
        amount_nano=amount_nano,
        day=day,
        settled_at_us=settled_at_us,
    )


def unsettled(entry: Entry, prices: Prices, *, day: str, settled_at_us: int) -> Charge:
    """Return the row that says that a decision's entry never came. `entry` holds what was known at its admission."""
    return Charge(
        id=_unsettled_id(entry),
        kind=Kind.UNSETTLED,
        entry=entry,
        prices=prices,
        usage=Usage(),
        measured=Measured.NONE,
        amount_nano=0,
        day=day,
        settled_at_us=settled_at_us,
    )


def correction(charge: Charge) -> Charge:
    """Return the charge of a decision that was given up as unsettled before, as the row that corrects that."""
    return replace(charge, id=correction_id(charge.entry), kind=Kind.CORRECTION)


def correction_id(entry: Entry) -> str:
    """Return the id of the correction that a decision's unsettled row gets if its entry comes after all."""
    return f"cor_{entry.decision_id.hex}"


def _unsettled_id(entry: Entry) -> str:
    return f"uns_{entry.decision_id.hex}"


def is_served(entry: Entry) -> bool:
    """Return whether a backend worked on it: it answered below 400, or its caller left while it was at it."""
    return entry.status < 400 and (entry.status > 0 or entry.attempts > 0)


def _measure(entry: Entry) -> tuple[Usage, Measured]:
    if not is_served(entry):
        return Usage(), Measured.NONE
    endpoint = BY_NAME.get(entry.endpoint)
    if entry.reported is not None:
        usage = entry.reported.usage
        if entry.reported.output_told or endpoint is None or not endpoint.outputs:
            return usage, Measured.REPORTED
        output = _output(entry, endpoint)
        return (replace(usage, output=output), Measured.ESTIMATED) if output else (usage, Measured.REPORTED)
    if endpoint is None:
        return Usage(), Measured.NONE
    usage = Usage(
        input=_tokens(entry.request_bytes, entry.rates.input_byte) if endpoint.text_in else 0,
        output=_output(entry, endpoint),
    )
    return usage, Measured.ESTIMATED if usage != Usage() else Measured.NONE


def _output(entry: Entry, endpoint: Endpoint) -> int:
    """Return the tokens of what was delivered: a stream's by its events, which hold about one token each."""
    if not endpoint.outputs or not endpoint.text_out:
        return 0
    if entry.events is not None:
        return _tokens(entry.events, entry.rates.event)
    return _tokens(entry.answer_bytes, entry.rates.output_byte)


def _tokens(count: int, thousandths: int) -> int:
    return -(-count * thousandths // 1000)


def usage_from(leaves: Mapping[str, object]) -> Reported | None:
    """Return the tokens that a backend reported, each in one class; None if it reported none. A leaf that is no count is
    as if it weren't there.

    `leaves` holds the usage's leaves by OpenAI's and Anthropic's names. OpenAI counts cached, cache-write and audio
    tokens inside its prompt tokens (https://platform.openai.com/docs/api-reference/chat/object); Anthropic's
    `input_tokens` come without what was read from or written to its cache
    (https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching). Both are normalised here, once. A
    `total_tokens` counts only where nothing else does, as rerankers report it.
    """
    tokens = {name: int(value) for name, value in leaves.items() if name in _USAGE_LEAVES and _is_count(value)}  # type: ignore[call-overload]
    if _SUMS.isdisjoint(tokens):
        if "total_tokens" not in tokens:
            return None
        tokens["prompt_tokens"] = tokens["total_tokens"]
    return Reported(_normalised(tokens), output_told=not _OUTPUT_SUMS.isdisjoint(tokens))


_OUTPUT_SUMS = {"completion_tokens", "output_tokens"}
_SUMS = _OUTPUT_SUMS | {"prompt_tokens", "input_tokens"}
_USAGE_LEAVES = _SUMS | {
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "reasoning_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
}
_OPENAI = {"prompt_tokens", "cached_tokens", "cache_write_tokens"}
_MAX_COUNT = 2**40
"""Beyond any real request: a larger count is garbage, and would not be exact as a double for much longer."""


def _is_count(value: object) -> bool:
    if type(value) is int:  # nearly all of them; a bool is of another type
        return 0 <= value <= _MAX_COUNT
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT  # type: ignore[operator]


def _normalised(tokens: Mapping[str, int]) -> Usage:
    written = tokens.get("cache_write_tokens", tokens.get("cache_creation_input_tokens", 0))
    read = tokens.get("cached_tokens", tokens.get("cache_read_input_tokens", 0))
    outside = _OPENAI.isdisjoint(tokens)
    if outside:  # Anthropic's way, or no cache at all: what is read and written comes on top
        prompt = tokens.get("input_tokens", 0) + read + written
    else:
        prompt = tokens.get("prompt_tokens", tokens.get("input_tokens", 0))
    output = tokens.get("completion_tokens", tokens.get("output_tokens", 0))
    # No class may take more than is there: a part that is larger than its whole must not make another one negative.
    cached = min(read, prompt)
    written = min(written, prompt - cached)
    audio_in = min(tokens.get("audio_input_tokens", 0), prompt - cached - written)
    audio_out = min(tokens.get("audio_output_tokens", 0), output)
    return Usage(
        input=prompt - cached - written - audio_in,
        cached_input=cached,
        cache_write=written,
        output=output - audio_out,
        audio_input=audio_in,
        audio_output=audio_out,
        reasoning=min(tokens.get("reasoning_tokens", 0), output),
    )
