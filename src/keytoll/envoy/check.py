"""Check: Envoy's ext_authz call, from the bytes of a CheckRequest to the bytes of a CheckResponse.

The handler is a plain function, independent of the transport that carries it. It answers at once with bytes when the key
is in memory, and with an awaitable when the store must be asked.

There are two kinds, told apart by `context_extensions.kind` in envoy.yaml. `key` judges the headers of a large or unsized
body before Envoy buffers it, and returns no metadata. `full` decides.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Protocol
from uuid import UUID

import structlog

from keytoll.admission.bodies import LargeBodies
from keytoll.admission.cache import MISS, KeyCache
from keytoll.admission.holds import HoldBook
from keytoll.core.decision import (
    MALFORMED_KEY,
    MAX_BODY_BYTES,
    TOO_MANY_LARGE,
    UNAVAILABLE,
    UNCHARGEABLE,
    UNKNOWN_KEY,
    Account,
    Admission,
    Denial,
    Read,
    Reason,
    Request,
    Rules,
    Scalar,
    decide,
    decide_by_headers,
)
from keytoll.core.ids import uuid7
from keytoll.core.ledger import Entry
from keytoll.core.money import format_amount
from keytoll.core.secrets import KEY_PREFIX, digest_of, is_well_formed
from keytoll.envoy.entries import settlement_facts
from keytoll.envoy.messages.check_pb2 import AttributeContext, CheckRequest, CheckResponse, HeaderValueOption
from keytoll.metrics import Metrics
from keytoll.store.base import StoredKey, StoreUnavailable

_log = structlog.get_logger(__name__)

CHECK_SERVICE = "envoy.service.auth.v3.Authorization"

FACTS = "kt.req"
"""The metadata namespace in which envoy.yaml hands over the leaves of a JSON body."""

KNOWN_HEADER = "x-kt-known"
"""Set by the headers-only Check; opens the route on which Envoy may buffer a large body."""

KEY_ID_HEADER = "x-kt-key-id"
"""Tells Keytoll's own API, behind the data listener, whose key reads. Envoy strips it from callers' requests."""

LEFT_HEADER = "x-keytoll-quota-remaining"
"""Tells the caller what is left of the key's limit. Envoy sets it on the answer after everything that a backend says."""

READS_POOL = "keytoll_api"
"""The static cluster of envoy.yaml that leads to Keytoll's own API."""

_ROOM_WAIT_S = 0.4
"""How long a Check waits for a running request of its key to be settled, before it tells the caller to try again: long
enough for a caller who asks one thing after another, whose last answer is still on its way through the journal."""

_MOST_WAITING = 8

_BEARER = re.compile(r"bearer (gw-sk-\w+)", re.ASCII | re.IGNORECASE)
_PERMISSION_DENIED = 7  # google.rpc.Code

Handler = Callable[[bytes], bytes | Awaitable[bytes]]
"""What a transport carries: the bytes of a message in, the bytes of the answer out. Raises DecodeError on garbage."""


Void = Callable[[bytes], None]
"""What a transport calls with an answer that reached nobody."""


class Clock(Protocol):
    """The time of admission, in microseconds since the UNIX epoch."""

    def __call__(self) -> int: ...


Verdict = Admission | Read | Denial
_Admit = Callable[[], str | None]


class CheckHandler:
    """Answers Check. `rules` is read at each call, since a new catalog replaces it.

    `obstacle` tells why no request may be admitted at the moment, if so: what can't be recorded must not run.
    """

    def __init__(
        self,
        cache: KeyCache,
        *,
        book: HoldBook,
        bodies: LargeBodies,
        rules: Callable[[], Rules],
        clock: Clock,
        random: Callable[[int], bytes],
        metrics: Metrics,
        obstacle: _Admit = lambda: None,
    ) -> None:
        self._cache = cache
        self._book = book
        self._bodies = bodies
        self._rules = rules
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._obstacle = obstacle

    def __call__(self, message: bytes) -> bytes | Awaitable[bytes]:
        """Answer the Check in `message`."""
        started_s = time.perf_counter()
        attributes = CheckRequest.FromString(message).attributes
        secret = _bearer(attributes.request.http.headers.get("authorization", ""))
        if secret is None:
            return self._finish(attributes, started_s, _denied(MALFORMED_KEY), MALFORMED_KEY.reason)
        digest = digest_of(secret)
        stored = self._cache.find(digest)
        if stored is MISS:
            self._metrics.cache_misses.inc()
            return self._after_load(attributes, started_s, digest)
        self._metrics.cache_hits.inc()
        return self._judge(attributes, started_s, stored, digest)

    def void(self, answer: bytes) -> None:
        """Take back an answer that Envoy gave up before it came: its request will neither run nor be logged."""
        metadata = CheckResponse.FromString(answer).dynamic_metadata
        if "decision_id" in metadata.fields:
            self._book.void(UUID(metadata.fields["decision_id"].string_value))

    async def _after_load(self, attributes: AttributeContext, started_s: float, digest: bytes) -> bytes:
        try:
            stored = await self._load(digest)
        except StoreUnavailable:
            self._metrics.store_errors.inc()
            return self._finish(attributes, started_s, _denied(UNAVAILABLE), UNAVAILABLE.reason)
        answer = self._judge(attributes, started_s, stored, digest)
        return answer if isinstance(answer, bytes) else await answer

    async def _load(self, digest: bytes) -> StoredKey | None:
        # Asked again after each load: a key that was deleted while its load was on the way back is gone from it.
        while (stored := self._cache.find(digest)) is MISS:
            await self._cache.load(digest)
        return stored

    def _judge(
        self, attributes: AttributeContext, started_s: float, stored: StoredKey | None, digest: bytes
    ) -> bytes | Awaitable[bytes]:
        if stored is None:
            return self._finish(attributes, started_s, _denied(UNKNOWN_KEY), UNKNOWN_KEY.reason)
        if _kind(attributes) == "key":
            return self._judge_headers(attributes, started_s, stored, digest)
        verdict = self._decide(attributes, stored, digest)
        if _is_held(verdict) and self._book.waiting(stored.key.id) < _MOST_WAITING:
            return self._after_release(attributes, started_s, verdict, stored, digest)
        return self._conclude(attributes, started_s, verdict)

    async def _after_release(
        self, attributes: AttributeContext, started_s: float, verdict: Verdict, stored: StoredKey, digest: bytes
    ) -> bytes:
        try:
            async with asyncio.timeout(_ROOM_WAIT_S):
                while _is_held(verdict):
                    await self._book.released(stored.key.id)
                    found = await self._load(digest)
                    if found is None:
                        return self._finish(attributes, started_s, _denied(UNKNOWN_KEY), UNKNOWN_KEY.reason)
                    stored = found
                    verdict = self._decide(attributes, stored, digest)
        except (TimeoutError, StoreUnavailable):
            pass
        return self._conclude(attributes, started_s, verdict)

    def _judge_headers(self, attributes: AttributeContext, started_s: float, stored: StoredKey, digest: bytes) -> bytes:
        account, request = self._account(stored, digest), _request(attributes)
        denial = decide_by_headers(account=account, request=request, rules=self._rules(), now_us=self._clock())
        if denial is None and not self._takes_body(attributes, stored.key.id):
            denial = TOO_MANY_LARGE
        if denial is not None:
            return self._finish(attributes, started_s, _denied(denial), denial.reason)
        # It decides nothing yet: the full Check follows, and is counted.
        return self._finish(attributes, started_s, _known(), None)

    def _takes_body(self, attributes: AttributeContext, key_id: str) -> bool:
        declared = _request(attributes).declared_bytes
        return self._bodies.begin(key_id, _request_id(attributes), MAX_BODY_BYTES if declared is None else declared)

    def _decide(self, attributes: AttributeContext, stored: StoredKey, digest: bytes) -> Verdict:
        account, request = self._account(stored, digest), _request(attributes)
        return decide(account=account, request=request, rules=self._rules(), now_us=self._clock())

    def _account(self, stored: StoredKey, digest: bytes) -> Account:
        return Account(stored.key, stored.totals, self._book.of(stored.key.id), digest != stored.key.digest)

    def _conclude(self, attributes: AttributeContext, started_s: float, verdict: Verdict) -> bytes:
        if isinstance(verdict, Admission):
            return self._admit(attributes, started_s, verdict)
        self._bodies.refuse(_request_id(attributes))
        if isinstance(verdict, Read):
            return self._finish(attributes, started_s, _read(verdict), Reason.ALLOWED)
        return self._finish(attributes, started_s, _denied(verdict), verdict.reason)

    def _admit(self, attributes: AttributeContext, started_s: float, admission: Admission) -> bytes:
        """Hold and answer; nothing is awaited between the decision and the hold, so no other Check comes in between."""
        if (obstacle := self._obstacle()) is not None:
            return self._refuse_unchargeable(attributes, started_s, obstacle)
        entry = _entry(admission, uuid7(admission.admitted_at_us, self._random(10)))
        try:
            self._book.place(entry, request_id=_request_id(attributes))
        except OSError as error:
            return self._refuse_unchargeable(attributes, started_s, str(error))
        self._bodies.decide(_request_id(attributes), entry.decision_id)
        answer = _admitted(admission, entry)
        return self._finish(attributes, started_s, answer, Reason.ALLOWED)

    def _refuse_unchargeable(self, attributes: AttributeContext, started_s: float, problem: str) -> bytes:
        _log.error("not_admitted", problem=problem)
        self._bodies.refuse(_request_id(attributes))
        return self._finish(attributes, started_s, _denied(UNCHARGEABLE), UNCHARGEABLE.reason)

    def _finish(
        self, attributes: AttributeContext, started_s: float, answer: CheckResponse, reason: Reason | None
    ) -> bytes:
        if reason is not None:
            self._metrics.decisions.labels(reason.value).inc()
        self._metrics.check_seconds.labels(_kind(attributes)).observe(time.perf_counter() - started_s)
        return answer.SerializeToString()


def _is_held(verdict: Verdict) -> bool:
    return isinstance(verdict, Denial) and verdict.reason is Reason.QUOTA_HELD


def _bearer(authorization: str) -> str | None:
    match = _BEARER.fullmatch(authorization)
    return match[1] if match and is_well_formed(KEY_PREFIX, match[1]) else None


def _request_id(attributes: AttributeContext) -> str:
    """Envoy's own id of the request, the same in both of its Checks."""
    return attributes.request.http.headers.get("x-request-id", "")


def _kind(attributes: AttributeContext) -> str:
    return "key" if attributes.context_extensions.get("kind") == "key" else "full"


def _request(attributes: AttributeContext) -> Request:
    http = attributes.request.http
    return Request(
        method=http.method,
        path=http.path.partition("?")[0],
        content_type=http.headers.get("content-type", ""),
        declared_bytes=_declared_bytes(http.headers.get("content-length", "")),
        facts=_facts(attributes),
        source=attributes.source.address.socket_address.address,
    )


def _declared_bytes(length: str) -> int | None:
    if not (length.isascii() and length.isdigit()):
        return None
    return int(length.lstrip("0")[:_LENGTH_DIGITS] or "0")


_LENGTH_DIGITS = 19
"""More are cut off: the number is far too large as it is, and Python refuses to read thousands of them."""


def _facts(attributes: AttributeContext) -> dict[str, Scalar]:
    metadata = attributes.metadata_context.filter_metadata
    if FACTS not in metadata:
        return {}
    values = {}
    for name, value in metadata[FACTS].fields.items():
        kind = value.WhichOneof("kind")
        if kind in ("string_value", "number_value", "bool_value"):
            values[name] = getattr(value, kind)
        elif kind is not None and kind != "null_value":
            values[name] = ""  # present, and nothing that a rule accepts
    return values


def _known() -> CheckResponse:
    response = CheckResponse()
    response.ok_response.headers.append(_header(KNOWN_HEADER, "1"))
    return response


def _denied(denial: Denial) -> CheckResponse:
    response = CheckResponse()
    response.status.code = _PERMISSION_DENIED
    denied = response.denied_response
    denied.status.code = denial.status
    denied.headers.extend(_header(name, value) for name, value in denial.headers.items())
    denied.body = denial.body
    return response


def _header(name: str, value: str) -> HeaderValueOption:
    option = HeaderValueOption(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
    option.header.key = name
    option.header.value = value
    return option


def _read(read: Read) -> CheckResponse:
    response = CheckResponse()
    response.ok_response.headers_to_remove.append("authorization")
    response.ok_response.headers.append(_header(KEY_ID_HEADER, read.key.id))
    _tell_left(response, read.left_nano)
    response.dynamic_metadata.update({"pool": READS_POOL, "retries": 0, "body": "none"})
    return response


def _tell_left(response: CheckResponse, left_nano: int | None) -> None:
    if left_nano is not None:
        response.ok_response.response_headers_to_add.append(_header(LEFT_HEADER, format_amount(left_nano)))


def _entry(admission: Admission, decision_id: UUID) -> Entry:
    """The admission as the ledger would know it if it never heard of it again."""
    return Entry(
        decision_id=decision_id,
        key_id=admission.key.id,
        owner=admission.key.owner,
        model=admission.offer.model,
        endpoint=admission.endpoint.name,
        price_id=admission.price.id,
        admitted_at_us=admission.admitted_at_us,
        month=admission.month,
        status=0,
        attempts=0,
        reported=None,
        hold_nano=admission.worst_nano,
        rates=admission.offer.rates,
    )


def _admitted(admission: Admission, entry: Entry) -> CheckResponse:
    response = CheckResponse()
    response.ok_response.headers_to_remove.append("authorization")
    _tell_left(response, admission.left_nano)
    response.dynamic_metadata.update(settlement_facts(entry, admission.price.prices) | _data_plane_orders(admission))
    return response


def _data_plane_orders(admission: Admission) -> dict[str, str | float | bool]:
    """What request.lua does with the request; it knows no paths and no models of its own."""
    offer, endpoint = admission.offer, admission.endpoint
    asks = admission.stream and endpoint.stream_options
    orders: dict[str, str | float | bool] = {
        "pool": offer.pool,
        "retries": offer.retries,
        "body": endpoint.body.value,
        "include_usage": asks,
        "strip_usage": asks and not admission.wants_usage,
        "running_usage": asks and offer.running_usage and not admission.many_answers,
        "no_running_usage": asks and admission.many_answers,
        "store_false": endpoint.stores,
    }
    if offer.upstream_model is not None:
        orders["upstream_model"] = offer.upstream_model
    return orders
