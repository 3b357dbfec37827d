"""Check, from the bytes of a CheckRequest to the bytes of a CheckResponse, on a real store."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from changes import keep_key, make_event
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from keytoll.admission.bodies import LargeBodies
from keytoll.admission.cache import KeyCache
from keytoll.admission.file import AdmissionsFile
from keytoll.admission.holds import HoldBook
from keytoll.core.access import Networks
from keytoll.core.decision import Reason, Rules
from keytoll.core.keys import Key
from keytoll.core.months import Calendar
from keytoll.core.offer import Offer, PriceVersion
from keytoll.core.pricing import Prices
from keytoll.core.quota import Quota, QuotaKind
from keytoll.core.secrets import KEY_PREFIX, digest_of, mint
from keytoll.envoy.check import CheckHandler
from keytoll.envoy.messages.check_pb2 import CheckRequest, CheckResponse, HeaderValueOption
from keytoll.metrics import Metrics
from keytoll.store.sqlite import SqliteStore

NOW_US = 1_790_000_000_123_456
PRICES = Prices(input=1, output=1, cached_input=1, cache_write=1, audio_input=1, audio_output=1)
M = Offer(
    model="m",
    pool="model/m",
    prices=(PriceVersion(0, PRICES, PRICES.id),),
    retries=1,
    upstream_model="up",
    running_usage=True,
    context_length=1000,
    maximum_output=100,
)
MIXED = replace(M, model="mixed", pool="model/mixed", retries=0, upstream_model=None, running_usage=False)
OFFERS = {"m": M, "mixed": MIXED}
SECRET = mint(KEY_PREFIX, bytes(range(32)))
KEY = Key("key_1", "users/alice", "España 🚀", digest_of(SECRET), SECRET[-4:], Quota(), None, 0)


@dataclass
class Bench:
    store: SqliteStore
    file: AdmissionsFile
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.cache = KeyCache(self.store)
        self.bodies = LargeBodies(monotonic=lambda: 0.0)
        self.book = HoldBook(self.file, monotonic=lambda: 0.0, on_end=self.bodies.end)
        self.obstacle: str | None = None
        rules = Rules(Calendar(ZoneInfo("Asia/Shanghai")), "CNY", OFFERS)
        self.handler = CheckHandler(
            self.cache,
            book=self.book,
            bodies=self.bodies,
            rules=lambda: rules,
            clock=lambda: NOW_US,
            random=os.urandom,
            metrics=self.metrics,
            obstacle=lambda: self.obstacle,
        )

    async def check(self, **asked: Any) -> CheckResponse:
        answer = self.handler(request(**asked))
        return CheckResponse.FromString(answer if isinstance(answer, bytes) else await answer)


def request(
    *,
    authorization: str | None = f"Bearer {SECRET}",
    facts: dict[str, Any] | None = None,
    kind: str = "full",
    path: str = "/v1/chat/completions",
    method: str = "POST",
    source: str = "192.0.2.1",
    **headers: str,
) -> bytes:
    message = CheckRequest()
    message.attributes.source.address.socket_address.address = source
    http = message.attributes.request.http
    http.method, http.path = method, path
    http.headers["content-type"] = "application/json"
    http.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    if authorization is not None:
        http.headers["authorization"] = authorization
    message.attributes.context_extensions["kind"] = kind
    if kind == "full":
        message.attributes.metadata_context.filter_metadata["kt.req"].update({"model": "m"} if facts is None else facts)
    return message.SerializeToString()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store = await SqliteStore.open(tmp_path / "keytoll.db")
    await keep_key(store, KEY)
    file = AdmissionsFile(tmp_path)
    file.open()
    yield Bench(store, file)
    await store.close()


def metadata(response: CheckResponse) -> dict[str, Any]:
    return MessageToDict(response.dynamic_metadata)


async def test_an_admitted_request_carries_all_that_settlement_and_the_data_plane_need(bench: Bench) -> None:
    response = await bench.check(facts={"model": "m", "stream": True})
    assert response.status.code == 0
    assert list(response.ok_response.headers_to_remove) == ["authorization"]
    facts = metadata(response)
    assert UUID(facts.pop("decision_id")).version == 7
    assert facts == {
        "entry": f"{NOW_US}|1|key_1|users/alice|m|chat/completions|2026-09|{PRICES.id}|{PRICES.as_text}|250 250 1000",
        "pool": "model/m",
        "body": "json",
        "retries": 1,
        "upstream_model": "up",
        "include_usage": True,
        "strip_usage": True,
        "running_usage": True,
    }


@pytest.mark.parametrize(
    ("path", "facts", "orders"),
    [
        ("/v1/chat/completions", {"stream": True, "include_usage": True}, (True, False, True, False)),
        ("/v1/chat/completions", {"stream": False}, (False, False, False, False)),
        ("/v1/completions?x=y", {"stream": True}, (True, True, True, False)),
        ("/v1/responses", {"stream": True}, (False, False, False, True)),
        ("/v1/embeddings", {}, (False, False, False, False)),
    ],
)
async def test_usage_is_asked_for_where_it_must_be_and_hidden_from_who_did_not_ask(
    bench: Bench, path: str, facts: dict[str, Any], orders: tuple[bool, ...]
) -> None:
    given = metadata(await bench.check(path=path, facts={"model": "m", **facts}))
    assert (
        tuple(given.get(n, False) for n in ("include_usage", "strip_usage", "running_usage", "store_false")) == orders
    )


async def test_a_pool_whose_members_differ_in_the_models_name_leaves_it_to_each_attempt(bench: Bench) -> None:
    assert "upstream_model" not in metadata(await bench.check(facts={"model": "mixed"}))


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        SECRET,
        f"Basic {SECRET}",
        f"Bearer {SECRET[:-1]}",
        f"Bearer {SECRET},Bearer {SECRET}",
        "Bearer gw-sk-é",
    ],
)
async def test_what_is_no_key_is_refused_without_asking_the_store(bench: Bench, authorization: str | None) -> None:
    answer = bench.handler(request(authorization=authorization))
    assert isinstance(answer, bytes)
    response = CheckResponse.FromString(answer)
    assert response.denied_response.status.code == 401
    assert json.loads(response.denied_response.body)["error"]["code"] == "invalid_api_key"
    assert not response.HasField("dynamic_metadata")


async def test_the_scheme_may_be_written_in_any_case(bench: Bench) -> None:
    assert (await bench.check(authorization=f"bearer {SECRET}")).status.code == 0


async def test_only_a_keys_first_request_asks_the_store(bench: Bench) -> None:
    await bench.check()
    assert isinstance(bench.handler(request()), bytes)
    unknown = f"Bearer {mint(KEY_PREFIX, bytes(32))}"
    assert (await bench.check(authorization=unknown)).denied_response.status.code == 401
    assert isinstance(bench.handler(request(authorization=unknown)), bytes)
    lookups = bench.metrics.registry.get_sample_value
    assert lookups("keytoll_key_cache_lookups_total", {"result": "miss"}) == 2
    assert lookups("keytoll_key_cache_lookups_total", {"result": "hit"}) == 2


async def test_a_headers_only_check_lets_the_body_come_and_leaves_no_trace(bench: Bench) -> None:
    response = await bench.check(kind="key")
    assert [(h.header.key, h.header.value) for h in response.ok_response.headers] == [("x-kt-known", "1")]
    assert not response.ok_response.headers_to_remove
    assert not response.HasField("dynamic_metadata")
    assert bench.metrics.registry.get_sample_value("keytoll_decisions_total", {"reason": "allowed"}) == 0


async def test_a_headers_only_check_refuses_by_headers(bench: Bench) -> None:
    response = await bench.check(kind="key", content_length=str(32 * 2**20 + 1))
    assert response.denied_response.status.code == 413


async def test_a_refusal_carries_its_headers_and_names_of_any_script(bench: Bench) -> None:
    spent = Key(**{n: getattr(KEY, n) for n in Key.__slots__} | {"quota": Quota(QuotaKind.TOTAL, 0)})
    await bench.store.update_key(spent, event=make_event())
    response = (await bench.check()).denied_response
    headers = {h.header.key: h.header.value for h in response.headers}
    assert response.status.code == 429
    assert headers == {"content-type": "application/json", "x-should-retry": "false"}
    assert "España 🚀" in json.loads(response.body)["error"]["message"]
    assert bench.metrics.registry.get_sample_value("keytoll_decisions_total", {"reason": "quota_spent"}) == 1


async def test_a_store_that_is_away_is_an_outage_for_unknown_keys_only(bench: Bench) -> None:
    await bench.check()
    await bench.store.close()
    assert (await bench.check()).status.code == 0
    response = await bench.check(authorization=f"Bearer {mint(KEY_PREFIX, bytes(32))}")
    assert response.denied_response.status.code == 503
    assert json.loads(response.denied_response.body)["error"]["code"] == "service_unavailable"


@pytest.mark.parametrize("odd", [None, [1], {"id": "x"}])
async def test_metadata_of_an_odd_kind_is_never_taken_for_absent_unless_it_is_null(bench: Bench, odd: object) -> None:
    response = await bench.check(facts={"model": "m", "stream": odd})
    assert response.status.code == (0 if odd is None else 7)


async def test_garbage_is_an_error_of_the_transport(bench: Bench) -> None:
    with pytest.raises(DecodeError):
        bench.handler(b"\xff\xff\xff")


def test_every_reason_is_a_series_from_the_start() -> None:
    sample = Metrics().registry.get_sample_value
    assert {sample("keytoll_decisions_total", {"reason": reason.value}) for reason in Reason} == {0.0}


async def test_an_admitted_request_is_held_before_it_is_answered_and_let_go_if_nobody_got_the_answer(
    bench: Bench,
) -> None:
    await bench.check()
    answer = bench.handler(request(content_length="90"))
    assert isinstance(answer, bytes)
    assert bench.book.of("key_1").in_all.count == 2
    bench.handler.void(answer)
    assert bench.book.of("key_1").in_all.count == 1
    bench.handler.void(bench.handler(request(path="/v1/nowhere")))  # type: ignore[arg-type]  # a refusal holds nothing
    assert bench.book.of("key_1").in_all.count == 1


async def test_a_read_is_let_through_by_its_keys_id_and_holds_nothing(bench: Bench) -> None:
    answer = await bench.check(path="/v1/models/m", method="GET", facts={})
    assert [(h.header.key, h.header.value) for h in answer.ok_response.headers] == [("x-kt-key-id", "key_1")]
    assert metadata(answer) == {"pool": "keytoll_api", "body": "none"}
    assert len(bench.book) == 0


async def limited(bench: Bench, limit_nano: int = 1) -> None:
    await bench.store.update_key(replace(KEY, quota=Quota(QuotaKind.TOTAL, limit_nano)), event=make_event())


async def test_a_request_beside_one_that_holds_the_rest_waits_a_moment_for_it(bench: Bench) -> None:
    """A caller who asks one thing after another, whose last answer is still on its way through the journal."""
    await limited(bench)
    first = metadata(await bench.check())
    waiting = asyncio.ensure_future(bench.check())
    while not bench.book.waiting("key_1"):
        await asyncio.sleep(0)
    bench.book.end([UUID(first["decision_id"])])
    assert (await waiting).status.code == 0


async def test_a_request_that_finds_no_room_in_time_is_told_to_come_again(bench: Bench) -> None:
    await limited(bench)
    await bench.check()
    denied = (await bench.check()).denied_response
    headers = {h.header.key: h.header.value for h in denied.headers}
    assert (denied.status.code, headers["retry-after"]) == (429, "1")
    assert json.loads(denied.body)["error"]["code"] == "rate_limit_exceeded"
    assert len(bench.book) == 1


async def test_only_a_few_wait_and_the_others_are_told_at_once(bench: Bench) -> None:
    await limited(bench)
    await bench.check()
    answers = [bench.handler(request()) for _ in range(30)]
    assert sum(not isinstance(answer, bytes) for answer in answers) == 30  # none has begun to wait yet
    running = [asyncio.ensure_future(answer) for answer in answers if not isinstance(answer, bytes)]
    await asyncio.sleep(0)
    assert isinstance(bench.handler(request()), bytes)
    await asyncio.gather(*running)


async def test_a_key_that_is_deleted_while_its_request_waits_is_refused(bench: Bench) -> None:
    await limited(bench)
    first = metadata(await bench.check())
    waiting = asyncio.ensure_future(bench.check())
    while not bench.book.waiting("key_1"):
        await asyncio.sleep(0)
    await bench.store.delete_key("key_1", deleted_at_us=NOW_US, event=make_event())
    bench.cache.forget(KEY.digest)
    bench.book.end([UUID(first["decision_id"])])
    assert (await waiting).denied_response.status.code == 401


async def test_what_cannot_be_recorded_is_not_admitted(bench: Bench) -> None:
    bench.obstacle = "the disk is full"
    denied = (await bench.check()).denied_response
    assert denied.status.code == 503
    assert "disk" not in denied.body
    bench.obstacle = None
    bench.file.close()
    assert (await bench.check()).denied_response.status.code == 503
    assert len(bench.book) == 0


async def test_a_key_may_have_only_so_many_large_bodies_under_way(bench: Bench) -> None:
    largest = str(32 * 2**20)
    for number in range(8):
        known = await bench.check(kind="key", x_request_id=f"r{number}", content_length=largest)
        assert known.status.code == 0
    denied = (await bench.check(kind="key", x_request_id="undeclared")).denied_response
    assert denied.status.code == 429
    decided = metadata(await bench.check(x_request_id="r0"))
    await bench.check(x_request_id="r1", facts={"model": "nope"})  # refused by its body: it is not under way any more
    assert (await bench.check(kind="key", x_request_id="in its place")).status.code == 0
    assert (await bench.check(kind="key", x_request_id="more")).denied_response.status.code == 429
    bench.book.end([UUID(decided["decision_id"])])
    assert (await bench.check(kind="key", x_request_id="more")).status.code == 0


def left(response: CheckResponse) -> list[tuple[str, str, int]]:
    return [(o.header.key, o.header.value, o.append_action) for o in response.ok_response.response_headers_to_add]


async def test_an_admitted_request_is_told_what_is_left_beside_its_own_hold(bench: Bench) -> None:
    assert left(await bench.check()) == []  # unlimited
    quota = Quota(QuotaKind.TOTAL, 10_000_000_000)
    await bench.store.update_key(replace(KEY, quota=quota), event=make_event())
    bench.cache.forget(KEY.digest)
    overwrite = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert left(await bench.check()) == [("x-keytoll-quota-remaining", "9.999999998", overwrite)]
    assert left(await bench.check()) == [("x-keytoll-quota-remaining", "9.999999997", overwrite)]
    read = await bench.check(path="/v1/key", method="GET", facts={})
    assert left(read) == [("x-keytoll-quota-remaining", "9.999999997", overwrite)]


@pytest.mark.parametrize("kind", ["key", "full"])
async def test_the_source_is_envoys_word_and_no_headers(bench: Bench, kind: str) -> None:
    await bench.store.update_key(replace(KEY, allowed_networks=Networks(("10.0.0.0/8",))), event=make_event())
    forged = {"x_forwarded_for": "10.0.0.1", "x_real_ip": "10.0.0.1", "forwarded": "for=10.0.0.1"}
    response = await bench.check(kind=kind, source="192.0.2.1", **forged)
    assert response.denied_response.status.code == 403
    assert json.loads(response.denied_response.body)["error"]["code"] == "ip_not_allowed"
    assert (await bench.check(kind=kind, source="10.1.2.3")).status.code == 0


@pytest.mark.parametrize("kind", ["key", "full"])
async def test_behind_a_trusted_proxy_the_source_is_whom_envoy_names_and_not_the_proxy(bench: Bench, kind: str) -> None:
    await bench.store.update_key(replace(KEY, allowed_networks=Networks(("10.0.0.0/8",))), event=make_event())
    named = await bench.check(kind=kind, source="10.0.0.1", x_envoy_external_address="192.0.2.1")
    assert named.denied_response.status.code == 403
    assert (await bench.check(kind=kind, source="192.0.2.1", x_envoy_external_address="10.1.2.3")).status.code == 0


@pytest.mark.parametrize("kind", ["key", "full"])
async def test_a_disabled_key_is_refused_in_both_checks(bench: Bench, kind: str) -> None:
    await bench.store.update_key(replace(KEY, disabled=True), event=make_event())
    assert (await bench.check(kind=kind)).denied_response.status.code == 401


@pytest.mark.parametrize(("valid_for_us", "code"), [(1, 0), (0, 7)])
async def test_an_old_secret_is_taken_as_its_key_until_its_time(bench: Bench, valid_for_us: int, code: int) -> None:
    new = mint(KEY_PREFIX, b"n" * 32)
    rotated = replace(KEY, digest=digest_of(new), old_digest=KEY.digest, old_valid_until_us=NOW_US + valid_for_us)
    await bench.store.rotate_key(rotated, event=make_event())
    by_new = await bench.check(authorization=f"Bearer {new}")
    by_old = await bench.check()
    assert (by_new.status.code, by_old.status.code) == (0, code)
    assert bench.book.of(KEY.id).in_all.count == 2 - (code == 7)  # both hold for the one key


@pytest.mark.parametrize("asked", [{"n": 2}, {"best_of": 3}])
async def test_of_several_answers_no_running_usage_is_asked_for(bench: Bench, asked: dict[str, Any]) -> None:
    """Backends tell it one by one, and only at the end the sum: a cut stream would pay for one of them."""
    given = metadata(await bench.check(facts={"model": "m", "stream": True, **asked}))
    assert ("running_usage" in given, given["no_running_usage"]) == (False, True)
