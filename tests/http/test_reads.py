"""Callers read which models they may use, in OpenAI's shapes, and their key; only what Check let through is answered."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from keytoll.core.keys import Key
from keytoll.core.offer import Offer, PriceVersion
from keytoll.core.pricing import Prices
from keytoll.core.quota import Quota, QuotaKind, Totals
from keytoll.http.reads import KEY_HEADER, create_reads
from keytoll.management import Standing
from keytoll.store.base import StoredKey, StoreUnavailable

PRICES = Prices(input=1, output=1, cached_input=1, cache_write=1, audio_input=1, audio_output=1)


def offer(model: str, from_us: int) -> Offer:
    return Offer(
        model=model,
        pool=f"model/{model}",
        prices=(PriceVersion(from_us, PRICES, PRICES.id),),
        retries=0,
        upstream_model="secret-upstream",
        running_usage=False,
        context_length=1000,
        maximum_output=1000,
    )


OFFERS = {"m": offer("m", -1), "org/big:70b": offer("org/big:70b", 1_700_000_000_000_000)}
OF_BIG = {"id": "org/big:70b", "object": "model", "created": 1_700_000_000, "owned_by": "keytoll"}


MONTHLY = Quota(QuotaKind.MONTHLY, 100_000_000_000)
KEY = Key("key_1", "users/alice", "production", b"", "7f2a", MONTHLY, 1_800_000_000_000_000, 0)
STANDING = Standing(45_500_000_000, 54_500_000_000, 1_790_000_000_000_000, None)
KEYS = {key.id: StoredKey(key, Totals(), 0) for key in (KEY, replace(KEY, id="key_of_m", allowed_models=("m", "n")))}


async def key_of(key_id: str) -> StoredKey | None:
    if key_id == "key_away":
        raise StoreUnavailable("away")
    return KEYS.get(key_id)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_reads(lambda: OFFERS, key_of=key_of, standing=lambda _: STANDING))
    headers = {KEY_HEADER: "key_1"}
    async with httpx.AsyncClient(transport=transport, base_url="http://keytoll", headers=headers) as client:
        yield client


async def test_models_are_listed_with_nothing_of_their_backends(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/models")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "object": "list",
        "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "keytoll"}, OF_BIG],
    }


@pytest.mark.parametrize("path", ["org/big:70b", "org%2Fbig%3A70b"])
async def test_a_model_is_shown_also_if_its_name_holds_a_slash(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(f"/v1/models/{path}")).json() == OF_BIG


@pytest.mark.parametrize("name", ["n", "M", "m/", "", "org/big", "%00", "secret-upstream"])
async def test_a_model_that_is_not_on_offer_is_not_found(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/v1/models/{name}")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "model", "model_not_found")


async def test_a_key_sees_only_the_models_that_it_may_use(client: httpx.AsyncClient) -> None:
    headers = {KEY_HEADER: "key_of_m"}
    listed = await client.get("/v1/models", headers=headers)
    assert [model["id"] for model in listed.json()["data"]] == ["m"]
    assert (await client.get("/v1/models/m", headers=headers)).status_code == 200
    hidden = await client.get("/v1/models/org/big:70b", headers=headers)
    assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_key_tells_of_itself_what_its_holder_may_know(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/key")).json() == {
        "object": "key",
        "name": "production",
        "masked_key": "gw-sk-****7f2a",
        "owner": "users/alice",
        "quota": {"kind": "monthly", "limit": "100.00"},
        "used": "45.50",
        "remaining": "54.50",
        "resets_at": "2026-09-21T14:13:20Z",
        "expires_at": "2027-01-15T08:00:00Z",
        "allowed_models": None,
    }
    assert (await client.get("/v1/key", headers={KEY_HEADER: "key_of_m"})).json()["allowed_models"] == ["m", "n"]


@pytest.mark.parametrize("path", ["/v1/key", "/v1/models", "/v1/models/m"])
async def test_a_key_that_was_deleted_since_its_check_is_refused(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers={KEY_HEADER: "key_gone"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_store_that_is_away_is_an_outage(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/key", headers={KEY_HEADER: "key_away"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")


async def test_nothing_else_is_answered(client: httpx.AsyncClient) -> None:
    for method, path, status in (
        ("GET", "/v1/keys", 404),
        ("DELETE", "/v1/models/m", 405),
        ("POST", "/v1/models", 405),
    ):
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_request_that_check_did_not_let_through_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/models", headers={KEY_HEADER: ""})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
