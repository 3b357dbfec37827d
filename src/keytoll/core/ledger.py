"""The ledger's rules: what one finished request costs its key's owner.

Every admitted request ends in exactly one charge, also a refused or a cut one. A charge is made from the log entry
alone: Check put all that settlement needs into it, so that it doesn't matter when the entry comes nor what was edited
meanwhile.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from uuid import UUID

from keytoll.core.pricing import Prices, Usage, cost_nano


class Measured(StrEnum):
    """How the tokens of a charge were measured: told by the backend, or not at all."""

    REPORTED = "reported"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished request, as either access log tells it. Two entries are the same if all of this is the same.

    `status` is what the caller got, 0 if the caller left before it; `attempts` how often a backend was tried.
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
    usage: Usage | None

    @property
    def fingerprint(self) -> bytes:
        """A hash of the entry's facts: another entry under the same decision id is recognised by it."""
        facts = json.dumps(asdict(self), sort_keys=True, default=str, ensure_ascii=False)
        return hashlib.sha256(facts.encode()).digest()


@dataclass(frozen=True, slots=True)
class Charge:
    """A row of the ledger. `prices` are the unit prices that `amount_nano` was computed with."""

    id: str
    entry: Entry
    prices: Prices
    usage: Usage
    measured: Measured
    amount_nano: int
    settled_at_us: int


def settle(entry: Entry, prices: Prices, *, settled_at_us: int) -> Charge:
    """Return the charge of an entry.

    Only an answer below 400 with a usage costs anything: a backend's refusal is free, reported zeros are zeros, and an
    answer without any usage is a row of 0 that says so.
    """
    answered = 0 < entry.status < 400
    usage = entry.usage if answered else None
    return Charge(
        id=f"chg_{entry.decision_id.hex}",
        entry=entry,
        prices=prices,
        usage=usage or Usage(),
        measured=Measured.NONE if usage is None else Measured.REPORTED,
        amount_nano=0 if usage is None else cost_nano(usage, prices),
        settled_at_us=settled_at_us,
    )


def usage_from(reported: Mapping[str, object]) -> Usage | None:
    """Return the tokens that a backend reported, each in one class; None if it reported none or nonsense.

    `reported` holds the usage's leaves by OpenAI's and Anthropic's names. OpenAI counts cached, cache-write and audio
    tokens inside its prompt tokens (https://platform.openai.com/docs/api-reference/chat/object); Anthropic's
    `input_tokens` come without what was read from or written to its cache
    (https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching). Both are normalised here, once.
    """
    counts = {name: value for name, value in reported.items() if name in _USAGE_LEAVES}
    if not counts or not all(_is_count(value) for value in counts.values()):
        return None
    tokens = {name: int(value) for name, value in counts.items()}  # type: ignore[call-overload]
    if not tokens.keys() & _SUMS:
        return None
    return _normalised(tokens)


_SUMS = {"prompt_tokens", "input_tokens", "completion_tokens", "output_tokens"}
_USAGE_LEAVES = _SUMS | {
    "cached_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "reasoning_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
}
_MAX_COUNT = 2**40
"""Beyond any real request: a larger count is garbage, and would not be exact as a double for much longer."""


def _is_count(value: object) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT  # type: ignore[operator]


def _normalised(tokens: Mapping[str, int]) -> Usage:
    written = tokens.get("cache_creation_input_tokens", 0)
    read = tokens.get("cached_tokens", tokens.get("cache_read_input_tokens", 0))
    outside = "prompt_tokens" not in tokens and "cached_tokens" not in tokens
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
