"""A Check over a store of keys in every state, requests of valid and of refused kinds, and who may be admitted."""

import itertools
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from changes import keep_key, make_event
from settlement.conftest import NOW_US, PRICES

from fuzz import wire
from keytoll.admission.bodies import LargeBodies
from keytoll.admission.cache import KeyCache
from keytoll.admission.file import AdmissionsFile
from keytoll.admission.holds import HoldBook
from keytoll.core.decision import Rules
from keytoll.core.keys import Key
from keytoll.core.months import Calendar
from keytoll.core.offer import Offer, PriceVersion
from keytoll.core.quota import Quota, QuotaKind
from keytoll.core.secrets import KEY_PREFIX, digest_of, mint
from keytoll.envoy.check import CheckHandler
from keytoll.envoy.messages.check_pb2 import CheckRequest, CheckResponse
from keytoll.metrics import Metrics
from keytoll.store.sqlite import SqliteStore

MODELS = ("m", "mixed")
LIVE, SPENT, EXPIRED, DELETED, UNKNOWN = (mint(KEY_PREFIX, bytes([number]) * 32) for number in range(1, 6))


def _key(secret: str, name: str, *, quota: Quota, expires_at_us: int | None = None) -> Key:
    return Key(f"key_{name}", "users/alice", name, digest_of(secret), secret[-4:], quota, expires_at_us, 0)


KEYS = (
    _key(LIVE, "live", quota=Quota()),
    _key(SPENT, "spent", quota=Quota(QuotaKind.TOTAL, 0)),
    _key(EXPIRED, "expired", quota=Quota(), expires_at_us=NOW_US),
    _key(DELETED, "deleted", quota=Quota()),
)
_OFFERS = {
    model: Offer(
        model=model,
        pool=f"model/{model}",
        prices=(PriceVersion(0, PRICES, PRICES.id),),
        retries=1,
        upstream_model=None,
        running_usage=False,
        context_length=1000,
        maximum_output=100,
    )
    for model in MODELS
}


@dataclass(frozen=True, slots=True)
class Asking:
    """The handler, and what tells whether it leaves something behind."""

    handler: CheckHandler
    book: HoldBook

    async def __call__(self, message: bytes) -> bytes:
        """Return the answer to a message; an admission is given up at once. Raises DecodeError."""
        found = self.handler(message)
        answer = found if isinstance(found, bytes) else await found
        self.handler.void(answer)
        return answer


@asynccontextmanager
async def asking_in(folder: Path) -> AsyncIterator[Asking]:
    """Open a store with keys of all kinds in a folder."""
    async with AsyncExitStack() as stack:
        store = await SqliteStore.open(folder / "keytoll.db")
        stack.push_async_callback(store.close)
        for key in KEYS:
            await keep_key(store, key)
        await store.delete_key("key_deleted", deleted_at_us=NOW_US, event=make_event())
        file = AdmissionsFile(folder)
        file.open()
        stack.callback(file.close)
        yield _asking(store, file)


def _asking(store: SqliteStore, file: AdmissionsFile) -> Asking:
    minutes = itertools.count(0, 60)
    bodies = LargeBodies(monotonic=lambda: next(minutes))
    book = HoldBook(file, monotonic=lambda: 0.0, on_end=bodies.end)
    rules = Rules(Calendar(ZoneInfo("Asia/Shanghai")), "CNY", _OFFERS)
    handler = CheckHandler(
        KeyCache(store),
        book=book,
        bodies=bodies,
        rules=lambda: rules,
        clock=lambda: NOW_US,
        random=os.urandom,
        metrics=Metrics(),
    )
    return Asking(handler, book)


def requests(rng: Random) -> Sequence[bytes]:
    """Return valid Checks of each kind, by keys of all states."""
    found = []
    for secret in (LIVE, LIVE, LIVE, SPENT, EXPIRED, DELETED, UNKNOWN, None):
        found += [_request(secret, facts, path="/v1/chat/completions", kind="full") for facts in _FACTS]
        found += [
            _request(secret, {"model": "m"}, path="/v1/embeddings", kind="full"),
            _request(secret, {"model": "m", "n": 2.0}, path="/v1/completions?x=1", kind="full"),
            _request(secret, None, path="/v1/chat/completions", kind="key"),
            _request(secret, None, path="/v1/models/m", kind="full", method="GET"),
        ]
    rng.shuffle(found)
    return found


_FACTS: tuple[dict[str, Any], ...] = (
    {"model": "m"},
    {"model": "mixed", "stream": True, "include_usage": True, "max_tokens": 20.0},
    {"model": "m", "n": 3.0, "best_of": 4.0, "max_completion_tokens": 5.0, "store": False},
    {"model": "nowhere"},
    {"model": ""},
    {"model": "m", "stream": "true"},
    {"bad_body": True},
)


def _request(secret: str | None, facts: dict[str, Any] | None, *, path: str, kind: str, method: str = "POST") -> bytes:
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.path = method, path
    http.headers.update({"content-type": "application/json", "content-length": "312", "x-request-id": path + kind})
    if secret is not None:
        http.headers["authorization"] = f"Bearer {secret}"
    message.attributes.context_extensions["kind"] = kind
    if facts is not None:
        message.attributes.metadata_context.filter_metadata["kt.req"].update(facts)
    return message.SerializeToString(deterministic=True)  # else the seed would not tell all


def judge(message: bytes, answer: bytes) -> str:
    """Return what an answer is; fail if it is none, or lets something through that the message doesn't allow."""
    response = CheckResponse.FromString(answer)
    if response.HasField("denied_response"):
        assert response.status.code == 7
        assert 400 <= response.denied_response.status.code <= 503
        assert not response.HasField("dynamic_metadata")
        error = json.loads(response.denied_response.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return "refused"
    assert response.status.code == 0
    assert response.HasField("ok_response")
    secret, metadata = _authorization(message), response.dynamic_metadata
    headers = [(option.header.key, option.header.value) for option in response.ok_response.headers]
    if response.HasField("dynamic_metadata") and "decision_id" not in metadata.fields:
        assert metadata["pool"] == "keytoll_api"
        assert headers == [("x-kt-key-id", _READERS.get(secret, ""))], "read without the secret of a key"
        return "read"
    assert secret == LIVE, "admitted without the secret of a live key"
    if not response.HasField("dynamic_metadata"):
        assert headers == [("x-kt-known", "1")]
        return "let come"
    _, hold_nano, key_id, _, model, *_ = str(metadata["entry"]).split("|")
    assert key_id == "key_live"
    assert model in MODELS, "an unknown model is admitted"
    assert model == _model(message)
    assert int(hold_nano.replace("unbounded", "0")) >= 0
    return "admitted"


_READERS: dict[str | None, str] = {LIVE: "key_live", SPENT: "key_spent"}
"""Who may ask what models there are: also a spent key."""


def _authorization(message: bytes) -> str | None:
    header = wire.text_in(wire.at(message, 1, 4, 2, 3), "authorization")
    scheme, _, secret = (header or "").partition(" ")
    return secret if scheme.lower() == "bearer" else None


def _model(message: bytes) -> object:
    facts = wire.message_in(wire.at(message, 1, 11, 1), "kt.req") or b""
    return wire.leaf(wire.message_in(wire.at(facts, 1), "model") or b"")
