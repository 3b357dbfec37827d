"""Callers read which models are on offer, in OpenAI's shapes; only what Check has let through is answered."""

from collections.abc import AsyncIterator

import httpx
import pytest

from keytoll.core.offer import Offer, PriceVersion
from keytoll.core.pricing import Prices
from keytoll.http.reads import KEY_HEADER, create_reads

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


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_reads(lambda: OFFERS))
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
