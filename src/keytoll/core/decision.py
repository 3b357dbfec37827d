"""Admission: is this request of this key let through, and if not, what is the caller told.

The checks run in the order in which `decide` names them, the cheapest and most identifying first; the first that objects
decides. What many requests have alike, their `Shape`, is judged once. A denial is a value with one reason, and one table
(`ANSWERS`) maps reasons to what OpenAI's SDKs see. An outage is not decided here: it is an exception, and Check answers
for it with `UNAVAILABLE`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from keytoll.core.allowance import Allowance
from keytoll.core.endpoints import Body, Endpoint, endpoint_at
from keytoll.core.holds import KeyHolds, fits, left_beside_nano
from keytoll.core.keys import Key
from keytoll.core.money import currency_symbol, format_amount
from keytoll.core.months import Calendar, Month, to_datetime
from keytoll.core.offer import Offer, Offers, PriceVersion
from keytoll.core.quota import QuotaKind, Totals, is_spent
from keytoll.core.worst_case import worst_case_nano

Scalar = str | float | bool
"""What Envoy's metadata can hold of a JSON leaf; every number is a double."""

MAX_BODY_BYTES = 33_554_432
"""32 MiB: the largest request body, as in envoy.yaml."""

FORM_CONTENT_TYPE = re.compile(r"multipart/form-data\s*;.*", re.ASCII | re.IGNORECASE)
"""The content type of a form, whose fields form.lua reads. The same expression stands in envoy.yaml."""

JSON_CONTENT_TYPE = re.compile(r"application/([\w.+-]*\+)?json\s*(;.*)?", re.ASCII | re.IGNORECASE)
"""The content types whose body Envoy reads. The same expression stands in envoy.yaml."""


class Reason(StrEnum):
    """Why a request was let through or not; also the label of the decisions metric."""

    ALLOWED = "allowed"
    MALFORMED_KEY = "malformed_key"
    UNKNOWN_KEY = "unknown_key"
    DISABLED_KEY = "disabled_key"
    EXPIRED_KEY = "expired_key"
    NETWORK_NOT_ALLOWED = "network_not_allowed"
    UNKNOWN_PATH = "unknown_path"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BAD_BODY = "bad_body"
    BAD_FIELD = "bad_field"
    REFUSED_FIELD = "refused_field"
    TOO_LARGE = "too_large"
    MISSING_MODEL = "missing_model"
    UNKNOWN_MODEL = "unknown_model"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    QUOTA_SPENT = "quota_spent"
    QUOTA_HELD = "quota_held"
    TOO_MANY_LARGE = "too_many_large"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a reason is told to OpenAI's SDKs: HTTP status, the error's type and code, and whether a retry can help."""

    status: int
    type: str
    code: str | None
    retry: bool = False


ANSWERS: Mapping[Reason, Answer] = MappingProxyType(
    {
        Reason.MALFORMED_KEY: Answer(401, "invalid_request_error", "invalid_api_key"),
        Reason.UNKNOWN_KEY: Answer(401, "invalid_request_error", "invalid_api_key"),
        Reason.DISABLED_KEY: Answer(401, "invalid_request_error", "invalid_api_key"),
        Reason.EXPIRED_KEY: Answer(401, "invalid_request_error", "invalid_api_key"),
        Reason.NETWORK_NOT_ALLOWED: Answer(403, "invalid_request_error", "ip_not_allowed"),
        Reason.UNKNOWN_PATH: Answer(404, "invalid_request_error", "not_found"),
        Reason.METHOD_NOT_ALLOWED: Answer(405, "invalid_request_error", "method_not_allowed"),
        Reason.BAD_BODY: Answer(400, "invalid_request_error", None),
        Reason.BAD_FIELD: Answer(400, "invalid_request_error", None),
        Reason.REFUSED_FIELD: Answer(400, "invalid_request_error", "unsupported_parameter"),
        Reason.TOO_LARGE: Answer(413, "invalid_request_error", "request_too_large"),
        Reason.MISSING_MODEL: Answer(400, "invalid_request_error", None),
        Reason.UNKNOWN_MODEL: Answer(404, "invalid_request_error", "model_not_found"),
        Reason.MODEL_NOT_ALLOWED: Answer(403, "invalid_request_error", "model_not_found"),
        Reason.QUOTA_SPENT: Answer(429, "insufficient_quota", "insufficient_quota"),
        Reason.QUOTA_HELD: Answer(429, "rate_limit_error", "rate_limit_exceeded", retry=True),
        Reason.TOO_MANY_LARGE: Answer(429, "rate_limit_error", "rate_limit_exceeded", retry=True),
        Reason.UNAVAILABLE: Answer(503, "server_error", "service_unavailable", retry=True),
    }
)


class HeldBack(NamedTuple):
    """What a request would hold at most, in nano-units, None where that can't be bounded, and in which month."""

    month: str
    worst_nano: int | None


@dataclass(frozen=True, slots=True)
class Denial:
    """A request that is not let through: why, what the caller is told, and the parameter at fault.

    `held_back` says what would have to fit, if that is all that stands in its way.
    """

    reason: Reason
    message: str
    param: str | None = None
    allow: str | None = None
    held_back: "HeldBack | None" = None

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return ANSWERS[self.reason].status

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer. `x-should-retry` is what OpenAI's SDKs obey before any rule of their own."""
        headers = {"content-type": "application/json"}
        if ANSWERS[self.reason].retry:
            headers["retry-after"] = "1"
        else:
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.allow is not None:
            headers["allow"] = self.allow
        return headers

    @property
    def body(self) -> str:
        """The answer's JSON body, in the shape of OpenAI's API."""
        answer = ANSWERS[self.reason]
        error = {"message": self.message, "type": answer.type, "param": self.param, "code": answer.code}
        return json.dumps({"error": error}, ensure_ascii=False)


MALFORMED_KEY = Denial(
    Reason.MALFORMED_KEY,
    "No API key, or not in the form gw-sk-…, or mistyped; send it as Authorization: Bearer",
)
UNKNOWN_KEY = Denial(Reason.UNKNOWN_KEY, "This API key does not exist or was deleted")
UNAVAILABLE = Denial(Reason.UNAVAILABLE, "The gateway can't check API keys at the moment")
TOO_MANY_LARGE = Denial(Reason.TOO_MANY_LARGE, "Too many large requests are under way; try again when one has finished")
UNCHARGEABLE = Denial(Reason.UNAVAILABLE, "The gateway can't record requests at the moment")


@dataclass(frozen=True, slots=True)
class Shape:
    """What many requests have alike, and all that this alone tells of them, which so is judged once for them all.

    `misplaced`, `mistyped` and `misread` are what is wrong with path and method, with the content type, and with what
    Envoy read of the body. Where nothing is, `answers` is the larger of `n` and `best_of`, 1 unless given, and
    `output_limit` the largest token limit that the endpoint obeys, None if none was given.
    """

    endpoint: Endpoint | None
    misplaced: Denial | None
    mistyped: Denial | None
    misread: Denial | None
    model: Scalar = ""
    stream: bool = False
    wants_usage: bool = False
    answers: int = 1
    output_limit: int | None = None


def shape_of(*, method: str, path: str, content_type: str, facts: Mapping[str, Scalar]) -> Shape:
    """Return the shape of a request. `facts` are the leaves that Envoy read from a JSON body; empty if it read none."""
    endpoint = endpoint_at(path)
    misplaced, mistyped = _misplaced(endpoint, method), _mistyped(endpoint, content_type)
    misread = _bad_body(endpoint, facts) or _bad_field(facts) or _stored_state(facts)
    if endpoint is None or misread is not None:
        return Shape(endpoint, misplaced, mistyped, misread)
    limits = [int(facts[name]) for name in endpoint.limits if name in facts]
    return Shape(
        endpoint,
        misplaced,
        mistyped,
        misread,
        model=facts["model"],
        stream=facts.get("stream") is True,
        wants_usage=facts.get("include_usage") is True,
        answers=max([1, *(int(facts[name]) for name in _ANSWERS if name in facts)]),
        output_limit=max(limits) if limits else None,
    )


# Request, Admission and Account are made for every Check, and a tuple is made in a fraction of a frozen dataclass's time.
class Request(NamedTuple):
    """What Envoy tells of a request: its shape, and what is its own.

    `source` is the address of the client as Envoy sees it, which no header of the client's changes.
    """

    shape: Shape
    declared_bytes: int | None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """A read with one's own key that is let through: Keytoll itself answers it, nothing is held or charged.

    `left_nano` is what is left of the key's limit beside its holds, None if it has none.
    """

    key: Key
    endpoint: Endpoint
    left_nano: int | None = None


class Admission(NamedTuple):
    """A request that is let through, with what settlement and the data plane need to know of it. `many_answers`: it asks
    for more than one, of which backends tell the running usage one by one, and only at the end the sum.

    `worst_nano` is what it holds until it is settled, None where that can't be bounded. `left_nano` is what is left of
    the key's limit beside that and what others hold, None if it has none.
    """

    key: Key
    offer: Offer
    price: PriceVersion
    endpoint: Endpoint
    stream: bool
    wants_usage: bool
    many_answers: bool
    admitted_at_us: int
    month: str
    worst_nano: int | None
    left_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The deployment's settings that decisions depend on: billing calendar, currency, and the models on offer."""

    calendar: Calendar
    currency: str
    offers: Offers


class Account(NamedTuple):
    """What is known of a key when it asks: itself, what it has spent, and what its requests under way hold.

    `by_old_secret`: it asks with the secret that a rotation has replaced. `allowance` is what this replica may hold of
    the key this month, None for one that is alone.
    """

    key: Key
    totals: Totals = Totals()
    holds: KeyHolds = KeyHolds()
    by_old_secret: bool = False
    allowance: Allowance | None = None


def decide(*, account: Account, request: Request, rules: Rules, now_us: int) -> Admission | Read | Denial:
    """Judge a request whose body Envoy has read, at the instant `now_us`, to whose month an admission belongs."""
    shape, month = request.shape, rules.calendar.month(now_us)
    if (denial := _key_denial(account, request.source, rules, now_us) or shape.misplaced) is not None:
        return denial
    if (endpoint := _found(shape)).read:
        return Read(account.key, endpoint, _left_nano(account, month))
    denial = (
        shape.mistyped or shape.misread or _length_denial(request) or _model_denial(account.key, shape.model, rules)
    )
    if denial is not None:
        return denial
    return _quota_denial(account, rules, month) or _admission(account, request, rules, month, endpoint, now_us)


def decide_by_headers(*, account: Account, request: Request, rules: Rules, now_us: int) -> Denial | None:
    """Judge what headers alone tell, before Envoy buffers a large body. None: the body may come, `decide` follows."""
    shape = request.shape
    denial = _key_denial(account, request.source, rules, now_us) or shape.misplaced or shape.mistyped
    return denial or _length_denial(request) or _quota_denial(account, rules, rules.calendar.month(now_us))


def _found(shape: Shape) -> Endpoint:
    if shape.endpoint is None:
        raise LookupError("checked before")
    return shape.endpoint


def _admission(
    account: Account, request: Request, rules: Rules, month: Month, endpoint: Endpoint, now_us: int
) -> Admission | Denial:
    key, totals, holds, _, allowance = account
    shape, declared_bytes, _ = request
    offer, name = rules.offers[str(shape.model)], month.name
    price = offer.prices_at(now_us)
    worst_nano = worst_case_nano(
        endpoint=endpoint,
        offer=offer,
        prices=price.prices,
        body_bytes=MAX_BODY_BYTES if declared_bytes is None else declared_bytes,
        output_limit=shape.output_limit,
        answers=shape.answers,
    )
    quota = key.quota
    if not fits(quota=quota, totals=totals, holds=holds, month=name, worst_nano=worst_nano, allowance=allowance):
        return _held(key, rules, HeldBack(name, worst_nano))
    left_nano = _left_nano(account, month, worst_nano)
    asks = (shape.stream, shape.wants_usage, shape.answers > 1)
    return Admission(key, offer, price, endpoint, *asks, now_us, name, worst_nano, left_nano)


def _left_nano(account: Account, month: Month, worst_nano: int | None = 0) -> int | None:
    key, totals, holds, _, _ = account
    return left_beside_nano(quota=key.quota, totals=totals, holds=holds, month=month.name, worst_nano=worst_nano)


def _key_denial(account: Account, source: str, rules: Rules, now_us: int) -> Denial | None:
    key = account.key
    if account.by_old_secret and (key.old_valid_until_us is None or now_us >= key.old_valid_until_us):
        return UNKNOWN_KEY
    if key.disabled:
        return Denial(Reason.DISABLED_KEY, f'The API key "{key.name}" is disabled')
    if key.expires_at_us is not None and now_us >= key.expires_at_us:
        since = _local_time(key.expires_at_us, rules)
        return Denial(Reason.EXPIRED_KEY, f'The API key "{key.name}" expired at {since}')
    if key.allowed_networks is not None and not key.allowed_networks.hold(source):
        message = f'The API key "{key.name}" may not be used from this network'
        return Denial(Reason.NETWORK_NOT_ALLOWED, message)
    return None


def _local_time(at_us: int, rules: Rules) -> str:
    return to_datetime(at_us).astimezone(rules.calendar.zone).isoformat(timespec="seconds")


def _length_denial(request: Request) -> Denial | None:
    if request.declared_bytes is not None and request.declared_bytes > MAX_BODY_BYTES:
        return Denial(Reason.TOO_LARGE, f"The request is too large; at most {MAX_BODY_BYTES // 2**20} MiB are taken")
    return None


def _misplaced(endpoint: Endpoint | None, method: str) -> Denial | None:
    if endpoint is None:
        return Denial(Reason.UNKNOWN_PATH, "Unknown path; see the gateway's documentation for the endpoints it serves")
    if method != endpoint.method:
        message = f"This endpoint takes {endpoint.method} only"
        return Denial(Reason.METHOD_NOT_ALLOWED, message, allow=endpoint.method)
    return None


def _mistyped(endpoint: Endpoint | None, content_type: str) -> Denial | None:
    body = Body.NONE if endpoint is None else endpoint.body
    if body is Body.JSON and JSON_CONTENT_TYPE.fullmatch(content_type) is None:
        return Denial(Reason.BAD_BODY, "The body must be JSON, with Content-Type: application/json")
    if body is Body.FORM and FORM_CONTENT_TYPE.fullmatch(content_type) is None:
        return Denial(Reason.BAD_BODY, "The body must be a form, with Content-Type: multipart/form-data")
    return None


def _bad_body(endpoint: Endpoint | None, facts: Mapping[str, Scalar]) -> Denial | None:
    if facts.get("too_complex") is not None:
        return Denial(Reason.TOO_LARGE, "The body holds too many values")
    # Envoy always sets `model`, to "" where it is missing: without it the body was not read, and nothing is known.
    if facts.get("bad_body") is not None or "model" not in facts:
        # Envoy's parser also refuses whole numbers from 2^63 to 2^64 - 1, and doubles out of range.
        message = "The body is not valid JSON, or holds a number that is out of range"
        if endpoint is not None and endpoint.body is Body.FORM:
            message = "The form is not complete, or written in a way that could be misread; see RFC 7578"
        return Denial(Reason.BAD_BODY, message)
    return None


_BOOLEANS = {"stream": "stream", "include_usage": "stream_options.include_usage"}
_ANSWERS = ("n", "best_of")
_WHOLE = ("n", "best_of", "max_tokens", "max_completion_tokens", "max_output_tokens")


def _bad_field(facts: Mapping[str, Scalar]) -> Denial | None:
    for fact, param in _BOOLEANS.items():
        # A lax backend might take "true" or 1 for true and stream, where nothing would ask it for the usage.
        if not isinstance(facts.get(fact, False), bool):
            return Denial(Reason.BAD_FIELD, f"`{param}` must be true or false", param)
    for name in _WHOLE:
        if name in facts and not _is_whole(facts[name]):
            return Denial(Reason.BAD_FIELD, f"`{name}` must be a whole number", name)
    return None


def _is_whole(value: Scalar) -> bool:
    return isinstance(value, float) and value >= 0 and value.is_integer()


_STATEFUL = ("store", "background", "previous_response_id", "conversation", "prompt")


def _stored_state(facts: Mapping[str, Scalar]) -> Denial | None:
    # Tenants share the backends' accounts: what one stores, another could read.
    for name in _STATEFUL:
        if facts.get(name, False) is not False:
            return Denial(Reason.REFUSED_FIELD, f"`{name}` is not supported: this gateway keeps no state", name)
    return None


def _model_denial(key: Key, model: Scalar, rules: Rules) -> Denial | None:
    if not isinstance(model, str) or not model:
        return Denial(Reason.MISSING_MODEL, "`model` must be given, as a string", "model")
    if model not in rules.offers:
        return Denial(Reason.UNKNOWN_MODEL, "This model does not exist, or this key may not use it", "model")
    if not key.allows(model):
        return Denial(Reason.MODEL_NOT_ALLOWED, f'The API key "{key.name}" may not use this model', "model")
    return None


def _quota_denial(account: Account, rules: Rules, month: Month) -> Denial | None:
    key = account.key
    if not is_spent(key.quota, account.totals, month.name):
        return None
    if key.quota.kind is QuotaKind.MONTHLY:
        when = f"it resets at {_local_time(month.end_us, rules)}"
    else:
        when = "it does not reset; raise it or use another key"
    return Denial(Reason.QUOTA_SPENT, f"The {_named(key, rules)} is spent; {when}")


def _held(key: Key, rules: Rules, held_back: HeldBack) -> Denial:
    return Denial(
        Reason.QUOTA_HELD,
        f"What is left of the {_named(key, rules)} may be used up by its requests that are under way; "
        "try again when one of them has finished",
        held_back=held_back,
    )


def _named(key: Key, rules: Rules) -> str:
    limit = currency_symbol(rules.currency) + format_amount(key.quota.limit_nano or 0)
    return f'{key.quota.kind.value} quota of the API key "{key.name}", {limit},'
