"""The worst case: the most that an admitted request can cost, which is held until it is settled.

It must never be too small, since the promise "a key's final spend is at most its limit plus one request" rests on it. So
every token is taken at the dearest price that it may be charged at. It may be too large: then fewer requests of a key
run at once, and a key with money left always gets one through.

Input: a tokenizer makes at most one token of a byte (byte-level BPE falls back to bytes; an escape in JSON is longer than
what it stands for), and the model's template adds a few. One context holds at most its length.
Output: the largest of the limits given times the number of answers, else the model's own maximum.
"""

from keytoll.core.endpoints import Endpoint, Inputs
from keytoll.core.offer import Offer
from keytoll.core.pricing import PER_TOKENS, Prices

UNBOUNDED = None
"""The worst case of what can't be bounded: it is admitted only alone, and holds all that is left."""

MAX_HOLD_NANO = 2**63 - 1
"""What a hold is cut to, so that absurd requests fit into 64 bits. It is more than any limit."""

_MIN_INPUT_BYTES = 3
"""What a further input takes in a JSON array at least: a token's digit or a quote, and a comma."""

_PAIR_SHARE = 12
"""A query of q bytes is read with each of k documents: q * k is at most B^2 / 12 in a body of B bytes, at 3 a document."""


def worst_case_nano(
    *,
    endpoint: Endpoint,
    offer: Offer,
    prices: Prices,
    body_bytes: int,
    output_limit: int | None,
    answers: int,
) -> int | None:
    """Return the most that the request can cost, in nano-units, or UNBOUNDED.

    `output_limit` is the largest token limit that was given, None if none was; `answers` the larger of `n` and
    `best_of`, 1 unless given.
    """
    input_tokens = _input_tokens(endpoint, offer, body_bytes)
    if input_tokens is None:
        return UNBOUNDED
    output_tokens = _output_tokens(endpoint, offer, output_limit) * max(answers, 1)
    dearest_input = max(prices.input, prices.cached_input, prices.cache_write, prices.audio_input)
    dearest_output = max(prices.output, prices.audio_output)
    scaled = input_tokens * dearest_input + output_tokens * dearest_output
    return min(-(-scaled // PER_TOKENS) + prices.request, MAX_HOLD_NANO)


def _input_tokens(endpoint: Endpoint, offer: Offer, body_bytes: int) -> int | None:
    inputs = body_bytes // _MIN_INPUT_BYTES + 1
    match endpoint.inputs:
        case Inputs.ONE:
            most = offer.context_length
            return most if offer.takes_media else min(body_bytes + offer.template_tokens, most)
        case Inputs.MANY:
            each = offer.context_length if offer.takes_media else offer.template_tokens
            return body_bytes + inputs * each
        case Inputs.PAIRS:
            return body_bytes + body_bytes**2 // _PAIR_SHARE + inputs * offer.template_tokens
        case Inputs.UNBOUNDED:
            return None


def _output_tokens(endpoint: Endpoint, offer: Offer, output_limit: int | None) -> int:
    if not endpoint.outputs:
        return 0
    # A limit of 0 means "none" to some backends. None generates more than fits into its context, whatever is asked.
    limit = min(output_limit, offer.context_length) if output_limit else offer.maximum_output
    return limit + offer.reasoning_beyond
