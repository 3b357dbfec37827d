"""Check: Envoy's ext_authz call, from the bytes of a CheckRequest to the bytes of a CheckResponse.

The handler is a plain function, independent of the transport that carries it. It answers at once with bytes when the key
is in memory, and with an awaitable when the store must be asked.

There are two kinds, told apart by `context_extensions.kind` in envoy.yaml. `key` judges the headers of a large or unsized
body before Envoy buffers it, and returns no metadata. `full` decides.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple, Protocol
from uuid import UUID

import structlog

from keytoll.admission.allowances import Allowances
from keytoll.admission.bodies import LargeBodies
from keytoll.admission.cache import MISS, KeyCache
from keytoll.admission.holds import HoldBook
from keytoll.admission.membership import Membership
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
    HeldBack,
    Read,
    Reason,
    Request,
    Rules,
    Scalar,
    Shape,
    decide,
    decide_by_headers,
    shape_of,
)
from keytoll.core.ids import uuid7
from keytoll.core.ledger import Admitted
from keytoll.core.secrets import KEY_PREFIX, digest_of, is_well_formed
from keytoll.envoy import answers
from keytoll.envoy.messages.check_pb2 import Asked, AttributeContext, Metadata
from keytoll.metrics import Metrics
from keytoll.store.base import KeyMonth, StoredKey, StoreUnavailable

_log = structlog.get_logger(__name__)

CHECK_SERVICE = "envoy.service.auth.v3.Authorization"

FACTS = "kt.req"
"""The metadata namespace in which envoy.yaml hands over the leaves of a JSON body."""

_ROOM_WAIT_S = 0.4
"""How long a Check waits for a running request of its key to be settled, before it tells the caller to try again: long
enough for a caller who asks one thing after another, whose last answer is still on its way through the journal."""

_MOST_WAITING = 8
_DRAWN_AT_ONCE = 256

_BEARER = re.compile(r"bearer (gw-sk-\w+)", re.ASCII | re.IGNORECASE)

Handler = Callable[[bytes], bytes | Awaitable[bytes]]
"""What a transport carries: the bytes of a message in, the bytes of the answer out. Raises DecodeError on garbage."""


Void = Callable[[bytes], None]
"""What a transport calls with an answer that reached nobody."""


class Clock(Protocol):
    """The time of admission, in microseconds since the UNIX epoch."""

    def __call__(self) -> int: ...


Verdict = Admission | Read | Denial
_Admit = Callable[[], str | None]


class _Asked(NamedTuple):
    """What a Check asks: of which kind it is, since when (by perf_counter), and what is known of the request.

    `request_id` is Envoy's own, the same in both of a request's Checks.
    """

    kind: str
    started_s: float
    digest: bytes
    request_id: str
    request: Request


class _Drawn:
    """Random bytes for decision ids, drawn many at a time: each call of the kernel costs more than the id."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._bytes, self._at = b"", 0

    def take(self) -> bytes:
        """Return 10 bytes that were not taken before."""
        if self._at == len(self._bytes):
            self._bytes, self._at = self._random(10 * _DRAWN_AT_ONCE), 0
        self._at += 10
        return self._bytes[self._at - 10 : self._at]


class CheckHandler:
    """Answers Check. `rules` is read at each call, since a new catalog replaces it.

    `obstacle` tells why no request may be admitted at the moment, if so: what can't be recorded must not run.
    `membership` is this replica's, if others share the store; without one it is alone.
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
        membership: Membership | None = None,
    ) -> None:
        self._cache = cache
        self._book = book
        self._bodies = bodies
        self._rules = rules
        self._clock = clock
        self._random = _Drawn(random)
        self._metrics = metrics
        self._obstacle = obstacle
        self._membership = membership
        self._admitted = answers.Admitted()

    def __call__(self, message: bytes) -> bytes | Awaitable[bytes]:
        """Answer the Check in `message`."""
        started_s = time.perf_counter()
        attributes = Asked.FromString(message).attributes
        http = attributes.request.http
        headers = http.headers
        secret = _bearer(headers.get("authorization", ""))
        if secret is None:
            return self._refuse_malformed(attributes, started_s)
        digest = digest_of(secret)
        stored = self._cache.find(digest)
        # Only here is the secret's form looked at: a key that is known has it.
        if stored is MISS and not is_well_formed(KEY_PREFIX, secret):
            return self._refuse_malformed(attributes, started_s)
        kind, shape = _shape(attributes, http.method, http.path, headers.get("content-type", ""))
        declared_bytes = _declared_bytes(headers.get("content-length", ""))
        source = headers.get(_SOURCE_HEADER) or _peer(_joined(attributes.source))
        request = Request(shape, declared_bytes, source)
        asked = _Asked(kind, started_s, digest, headers.get("x-request-id", ""), request)
        if stored is MISS:
            self._metrics.checks.misses += 1
            return self._after_load(asked)
        self._metrics.checks.hits += 1
        return self._judge(asked, stored)

    def void(self, answer: bytes) -> None:
        """Take back an answer that Envoy gave up before it came: its request will neither run nor be logged."""
        decision_id = answers.decision_in(answer)
        if decision_id is not None:
            self._book.void(decision_id)

    async def _after_load(self, asked: _Asked) -> bytes:
        try:
            stored = await self._load(asked.digest)
        except StoreUnavailable:
            self._metrics.store_errors.inc()
            return self._refuse(asked, UNAVAILABLE)
        answer = self._judge(asked, stored)
        return answer if isinstance(answer, bytes) else await answer

    async def _load(self, digest: bytes) -> StoredKey | None:
        # Asked again after each load: a key that was deleted while its load was on the way back is gone from it.
        while (stored := self._cache.find(digest)) is MISS:
            await self._cache.load(digest)
        return stored

    def _judge(self, asked: _Asked, stored: StoredKey | None) -> bytes | Awaitable[bytes]:
        if self._is_stale:
            return self._refuse(asked, UNAVAILABLE)
        if stored is None:
            return self._refuse(asked, UNKNOWN_KEY)
        if asked.kind == "key":
            return self._judge_headers(asked, stored)
        verdict = self._decide(asked, stored)
        if _held_back(verdict) is None:
            return self._conclude(asked, verdict)
        if self._membership is not None:
            return self._after_asking(asked, verdict, stored, self._membership.allowances)
        if self._book.waiting(stored.key.id) < _MOST_WAITING:
            return self._after_release(asked, verdict, stored)
        return self._conclude(asked, verdict)

    async def _after_release(self, asked: _Asked, verdict: Verdict, stored: StoredKey) -> bytes:
        with suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(_ROOM_WAIT_S):
                while _held_back(verdict) is not None:
                    await self._book.released(stored.key.id)
                    found = await self._load(asked.digest)
                    if found is None:
                        return self._refuse(asked, UNKNOWN_KEY)
                    stored = found
                    verdict = self._decide(asked, stored)
        return self._conclude(asked, verdict)

    async def _after_asking(self, asked: _Asked, verdict: Verdict, stored: StoredKey, allowances: Allowances) -> bytes:
        """Answer once the store has granted what is needed, or it is clear that others hold it."""
        answered = False
        try:
            async with asyncio.timeout(_ROOM_WAIT_S):
                while (needed := _held_back(verdict)) is not None:
                    of = KeyMonth(stored.key.id, needed.month)
                    if not await allowances.more(stored.key.quota, of, needed.worst_nano):
                        break
                    answered = True
                    found = await self._load(asked.digest)
                    if self._is_stale:
                        return self._refuse(asked, UNAVAILABLE)
                    if found is None:
                        return self._refuse(asked, UNKNOWN_KEY)
                    stored = found
                    verdict = self._decide(asked, stored)
        except StoreUnavailable:
            self._metrics.store_errors.inc()
            verdict = UNAVAILABLE
        except TimeoutError:
            verdict = verdict if answered else UNAVAILABLE
        return self._conclude(asked, verdict)

    @property
    def _is_stale(self) -> bool:
        """Whether keys may have changed without this replica's knowing."""
        return self._membership is not None and not self._membership.is_fresh

    def _judge_headers(self, asked: _Asked, stored: StoredKey) -> bytes:
        rules, now_us = self._rules(), self._clock()
        account = self._account(asked, stored, rules, now_us)
        denial = decide_by_headers(account=account, request=asked.request, rules=rules, now_us=now_us)
        if denial is None and not self._takes_body(asked, stored.key.id):
            denial = TOO_MANY_LARGE
        if denial is not None:
            return self._refuse(asked, denial)
        # It decides nothing yet: the full Check follows, and is counted.
        return self._finish(asked.kind, asked.started_s, answers.known(), None)

    def _takes_body(self, asked: _Asked, key_id: str) -> bool:
        declared = asked.request.declared_bytes
        return self._bodies.begin(key_id, asked.request_id, MAX_BODY_BYTES if declared is None else declared)

    def _decide(self, asked: _Asked, stored: StoredKey) -> Verdict:
        rules, now_us = self._rules(), self._clock()
        account = self._account(asked, stored, rules, now_us)
        return decide(account=account, request=asked.request, rules=rules, now_us=now_us)

    def _account(self, asked: _Asked, stored: StoredKey, rules: Rules, now_us: int) -> Account:
        key, by_old_secret = stored.key, asked.digest != stored.key.digest
        if self._membership is None:
            return Account(key, stored.totals, self._book.of(key.id), by_old_secret)
        allowance = self._membership.allowances.of(key.id, rules.calendar.month(now_us).name)
        return Account(key, stored.totals, self._book.of(key.id), by_old_secret, allowance)

    def _conclude(self, asked: _Asked, verdict: Verdict) -> bytes:
        if isinstance(verdict, Admission):
            return self._admit(asked, verdict)
        self._bodies.refuse(asked.request_id)
        if isinstance(verdict, Read):
            return self._finish(asked.kind, asked.started_s, answers.read(verdict), Reason.ALLOWED)
        return self._refuse(asked, verdict)

    def _admit(self, asked: _Asked, admission: Admission) -> bytes:
        """Hold and answer; nothing is awaited between the decision and the hold, so no other Check comes in between."""
        if (obstacle := self._obstacle()) is not None:
            return self._refuse_unchargeable(asked, obstacle)
        decision_id = uuid7(admission.admitted_at_us, self._random.take())
        try:
            self._book.place(_placed(admission, decision_id), request_id=asked.request_id)
        except OSError as error:
            return self._refuse_unchargeable(asked, str(error))
        self._bodies.decide(asked.request_id, decision_id)
        answer = self._admitted.answer(admission, decision_id)
        return self._finish(asked.kind, asked.started_s, answer, Reason.ALLOWED)

    def _refuse_malformed(self, attributes: Asked.Attributes, started_s: float) -> bytes:
        answer = answers.denied(MALFORMED_KEY)
        return self._finish(_kind(attributes), started_s, answer, MALFORMED_KEY.reason)

    def _refuse_unchargeable(self, asked: _Asked, problem: str) -> bytes:
        _log.error("not_admitted", problem=problem)
        self._bodies.refuse(asked.request_id)
        return self._refuse(asked, UNCHARGEABLE)

    def _refuse(self, asked: _Asked, denial: Denial) -> bytes:
        return self._finish(asked.kind, asked.started_s, answers.denied(denial), denial.reason)

    def _finish(self, kind: str, started_s: float, answer: bytes, reason: Reason | None) -> bytes:
        self._metrics.checks.count(kind, reason, time.perf_counter() - started_s)
        return answer


def _held_back(verdict: Verdict) -> HeldBack | None:
    return verdict.held_back if isinstance(verdict, Denial) else None


def _bearer(authorization: str) -> str | None:
    match = _BEARER.fullmatch(authorization)
    return match[1] if match else None


def _kind(attributes: Asked.Attributes) -> str:
    return "key" if _KEY_KIND in attributes.context_extensions else "full"


_KEY_KIND = AttributeContext(context_extensions={"kind": "key"}).SerializeToString()[2:]
"""The entry, as it is encoded, by which envoy.yaml tells the headers-only Check."""


def _joined(parts: Sequence[bytes]) -> bytes:
    """Return a message of which several parts may have come: by protobuf's rule it is what they are together."""
    return parts[0] if len(parts) == 1 else b"".join(parts)


_SOURCE_HEADER = "x-envoy-external-address"
"""Whose request it is. Who connects may be a proxy that is trusted to name its clients, and what Envoy makes of that it says
here alone; `source` is the connection's. No client can set it, since envoy.yaml strips it first."""


@lru_cache(maxsize=4096)
def _peer(peer: bytes) -> str:
    return AttributeContext.Peer.FromString(peer).address.socket_address.address


def _declared_bytes(length: str) -> int | None:
    if not (length.isascii() and length.isdigit()):
        return None
    return int(length if len(length) <= _LENGTH_DIGITS else length.lstrip("0")[:_LENGTH_DIGITS] or "0")


_LENGTH_DIGITS = 19
"""More are cut off: the number is far too large as it is, and Python refuses to read thousands of them."""


def _shape(attributes: Asked.Attributes, method: str, path: str, content_type: str) -> tuple[str, Shape]:
    """Return the kind of a Check, and its request's shape. Most requests have the same few: these are remembered, by what
    Envoy told of them as it was encoded."""
    metadata = _joined(attributes.metadata_context)
    path = path.partition("?")[0]
    is_remembered = len(metadata) + len(path) + len(content_type) <= _MOST_REMEMBERED_BYTES
    shape = (_remembered_shape if is_remembered else _judged_shape)(method, path, content_type, metadata)
    return _kind(attributes), shape


_MOST_REMEMBERED_BYTES = 512
"""Callers choose what is remembered, so that each must be small."""


def _judged_shape(method: str, path: str, content_type: str, metadata: bytes) -> Shape:
    return shape_of(method=method, path=path, content_type=content_type, facts=_facts(metadata))


_remembered_shape = lru_cache(maxsize=4096)(_judged_shape)


def _facts(metadata_context: bytes) -> Mapping[str, Scalar]:
    """Return the leaves of the body."""
    metadata = Metadata.FromString(metadata_context).filter_metadata
    if FACTS not in metadata:
        return {}
    values: dict[str, Scalar] = {}
    for name, value in metadata[FACTS].fields.items():
        kind = value.WhichOneof("kind")
        if kind in ("string_value", "number_value", "bool_value"):
            values[name] = getattr(value, kind)
        elif kind is not None and kind != "null_value":
            values[name] = ""  # present, and nothing that a rule accepts
    return values


def _placed(admission: Admission, decision_id: UUID) -> Admitted:
    """The admission as it is held and written down."""
    key, offer = admission.key, admission.offer
    return Admitted(
        decision_id,
        key.id,
        key.owner,
        offer.model,
        admission.endpoint.name,
        admission.price.id,
        admission.admitted_at_us,
        admission.month,
        admission.worst_nano,
        offer.rates,
    )
