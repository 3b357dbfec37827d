"""Check: Envoy's ext_authz call, from the bytes of a CheckRequest to the bytes of a CheckResponse.

The handler is a plain function, independent of the transport that carries it. It answers at once with bytes when the key
is in memory, and with an awaitable when the store must be asked.

There are two kinds, told apart by `context_extensions.kind` in envoy.yaml. `key` judges the headers of a large or unsized
body before Envoy buffers it, and returns no metadata. `full` decides.
"""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Protocol
from uuid import UUID

from keytoll.admission.cache import MISS, KeyCache
from keytoll.core.decision import (
    MALFORMED_KEY,
    UNAVAILABLE,
    UNKNOWN_KEY,
    Admission,
    Denial,
    Reason,
    Request,
    Rules,
    Scalar,
    decide,
    decide_by_headers,
)
from keytoll.core.ids import uuid7
from keytoll.core.keys import digest_of, is_well_formed
from keytoll.envoy.messages.check_pb2 import AttributeContext, CheckRequest, CheckResponse, HeaderValueOption
from keytoll.metrics import Metrics
from keytoll.store.base import StoredKey, StoreUnavailable

FACTS = "kt.req"
"""The metadata namespace in which envoy.yaml hands over the leaves of a JSON body."""

KNOWN_HEADER = "x-kt-known"
"""Set by the headers-only Check; opens the route on which Envoy may buffer a large body."""

_BEARER = re.compile(r"bearer (gw-sk-\w+)", re.ASCII | re.IGNORECASE)
_PERMISSION_DENIED = 7  # google.rpc.Code

Handler = Callable[[bytes], bytes | Awaitable[bytes]]
"""What a transport carries: the bytes of a message in, the bytes of the answer out. Raises DecodeError on garbage."""


class Clock(Protocol):
    """The time of admission, in microseconds since the UNIX epoch."""

    def __call__(self) -> int: ...


class CheckHandler:
    """Answers Check. `rules` is read at each call, since a new catalog replaces it."""

    def __init__(
        self,
        cache: KeyCache,
        *,
        rules: Callable[[], Rules],
        clock: Clock,
        random: Callable[[int], bytes],
        metrics: Metrics,
    ) -> None:
        self._cache = cache
        self._rules = rules
        self._clock = clock
        self._random = random
        self._metrics = metrics

    def __call__(self, message: bytes) -> bytes | Awaitable[bytes]:
        """Answer the Check in `message`."""
        started_s = time.perf_counter()
        attributes = CheckRequest.FromString(message).attributes
        secret = _bearer(attributes.request.http.headers.get("authorization", ""))
        if secret is None:
            return self._finish(attributes, started_s, MALFORMED_KEY)
        digest = digest_of(secret)
        stored = self._cache.find(digest)
        if stored is MISS:
            self._metrics.cache_misses.inc()
            return self._after_load(attributes, started_s, digest)
        self._metrics.cache_hits.inc()
        return self._judge(attributes, started_s, stored)

    async def _after_load(self, attributes: AttributeContext, started_s: float, digest: bytes) -> bytes:
        try:
            # Asked again after each load: a key that was deleted while its load was on the way back is gone from it.
            while (stored := self._cache.find(digest)) is MISS:
                await self._cache.load(digest)
        except StoreUnavailable:
            self._metrics.store_errors.inc()
            return self._finish(attributes, started_s, UNAVAILABLE)
        return self._judge(attributes, started_s, stored)

    def _judge(self, attributes: AttributeContext, started_s: float, stored: StoredKey | None) -> bytes:
        if stored is None:
            return self._finish(attributes, started_s, UNKNOWN_KEY)
        judge = decide_by_headers if _kind(attributes) == "key" else decide
        verdict = judge(
            key=stored.key,
            totals=stored.totals,
            request=_request(attributes),
            rules=self._rules(),
            now_us=self._clock(),
        )
        return self._finish(attributes, started_s, verdict)

    def _finish(self, attributes: AttributeContext, started_s: float, verdict: Admission | Denial | None) -> bytes:
        kind = _kind(attributes)
        # A headers-only Check that lets the body come decides nothing: the full one follows and is counted.
        if verdict is not None:
            reason = verdict.reason if isinstance(verdict, Denial) else Reason.ALLOWED
            self._metrics.decisions.labels(reason.value).inc()
        answer = self._answer(verdict)
        self._metrics.check_seconds.labels(kind).observe(time.perf_counter() - started_s)
        return answer.SerializeToString()

    def _answer(self, verdict: Admission | Denial | None) -> CheckResponse:
        if verdict is None:
            return _known()
        if isinstance(verdict, Denial):
            return _denied(verdict)
        return _admitted(verdict, uuid7(verdict.admitted_at_us, self._random(10)))


def _bearer(authorization: str) -> str | None:
    match = _BEARER.fullmatch(authorization)
    return match[1] if match and is_well_formed(match[1]) else None


def _kind(attributes: AttributeContext) -> str:
    return "key" if attributes.context_extensions.get("kind") == "key" else "full"


def _request(attributes: AttributeContext) -> Request:
    http = attributes.request.http
    length = http.headers.get("content-length", "")
    return Request(
        method=http.method,
        path=http.path.partition("?")[0],
        content_type=http.headers.get("content-type", ""),
        declared_bytes=int(length) if length.isascii() and length.isdigit() else None,
        facts=_facts(attributes),
    )


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


def _admitted(admission: Admission, decision_id: UUID) -> CheckResponse:
    response = CheckResponse()
    response.ok_response.headers_to_remove.append("authorization")
    response.dynamic_metadata.update(_settlement_facts(admission, decision_id) | _data_plane_orders(admission))
    return response


def _settlement_facts(admission: Admission, decision_id: UUID) -> dict[str, str | float | bool]:
    """What the log entry must carry back; `entries` reads it. Instants are text: Envoy's numbers are doubles."""
    return {
        "decision_id": str(decision_id),
        "key_id": admission.key.id,
        "owner": admission.key.owner,
        "model": admission.offer.model,
        "endpoint": admission.endpoint.name,
        "price_id": admission.offer.price_id,
        "admitted_at_us": str(admission.admitted_at_us),
        "month": admission.month,
    }


def _data_plane_orders(admission: Admission) -> dict[str, str | float | bool]:
    """What request.lua does with the request; it knows no paths and no models of its own."""
    offer, endpoint = admission.offer, admission.endpoint
    asks = admission.stream and endpoint.stream_options
    orders: dict[str, str | float | bool] = {
        "pool": offer.pool,
        "retries": offer.retries,
        "body": "json",
        "include_usage": asks,
        "strip_usage": asks and not admission.wants_usage,
        "running_usage": asks and offer.running_usage,
        "store_false": endpoint.stores,
    }
    if offer.upstream_model is not None:
        orders["upstream_model"] = offer.upstream_model
    return orders
