"""What users of similar systems ran into, through the real Envoy: overselling, free models, endless series, open doors."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import grpc
import httpx
import pytest
from starlette.responses import JSONResponse, Response

from e2e.conftest import CHAT, EMBEDDING, Gateway, gateway_in, until
from e2e.scripted import Asked, completion
from keytoll.envoy.check import CHECK_SERVICE
from keytoll.envoy.messages.check_pb2 import CheckResponse, OkHttpResponse
from keytoll.sockets import short_path

CHAT_PATH = "/v1/chat/completions"
ONE = Decimal("0.0012")
"""What one request of `odd` holds and then costs: its whole context of 1,000 tokens in, and 100 tokens out."""

FULL = {"model": "odd", "max_tokens": 100, "messages": [{"role": "user", "content": "x" * 1000}]}


class Gate:
    """A backend that answers nobody before it is opened, and then with a request's whole worst case."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0

    async def __call__(self, _: Asked) -> Response:
        self.inside += 1
        await self.opened.wait()
        return JSONResponse(completion(usage={"prompt_tokens": 1000, "completion_tokens": 100}))


def kind(response: httpx.Response) -> str:
    """Return what a response is: `ok`, or the code of its error with what it says of a retry."""
    if response.status_code == 200:
        return "ok"
    code: str = response.json()["error"]["code"]
    retry_after, should_retry = response.headers.get("retry-after"), response.headers.get("x-should-retry")
    return f"{response.status_code} {code} retry-after={retry_after} x-should-retry={should_retry}"


HELD = "429 rate_limit_exceeded retry-after=1 x-should-retry=None"
SPENT = "429 insufficient_quota retry-after=None x-should-retry=false"


@pytest.mark.parametrize(
    ("limit", "admitted", "refused"),
    [(10 * ONE, 10, HELD), (ONE, 1, HELD), (Decimal("0.000001"), 1, HELD), (Decimal(0), 0, SPENT)],
    ids=["worth ten", "worth one", "worth less than one", "worth none"],
)
async def test_fifty_at_once_are_never_oversold(gateway: Gateway, limit: Decimal, admitted: int, refused: str) -> None:
    """User reports 13 and 30: who is refused only for now is told to come again; once it is spent, not to."""
    gate = gateway.odd.script = Gate()
    key = await gateway.new_key(quota={"kind": "total", "limit": str(limit)})
    async with gateway.http(key, limits=httpx.Limits(max_connections=50)) as client:
        asked = [asyncio.create_task(client.post(CHAT_PATH, json=FULL)) for _ in range(50)]
        await until(lambda: _is(sum(task.done() for task in asked) >= 50 - admitted and gate.inside >= admitted))
        gate.opened.set()
        answers = Counter(kind(response) for response in await asyncio.gather(*asked))
        assert answers == Counter({"ok": admitted, refused: 50 - admitted})
        assert gate.inside == admitted
        charges = await gateway.charges(key, admitted) if admitted else []
        assert sum(Decimal(charge["amount"]) for charge in charges) == admitted * ONE <= limit + ONE
        assert kind(await client.post(CHAT_PATH, json=FULL)) == SPENT


async def _is(yes: bool) -> bool:
    return yes


async def test_a_refusal_that_a_retry_helps_is_retried_by_sdks_with_success(gateway: Gateway) -> None:
    """User report 30: OpenAI's SDK waits as long as it is told to, and then gets its answer."""
    gate = gateway.odd.script = Gate()
    key = await gateway.new_key(quota={"kind": "total", "limit": str(ONE + ONE / 2)})
    statuses: list[int] = []

    async def let_go(response: httpx.Response) -> None:
        statuses.append(response.status_code)
        gate.opened.set()

    async with (
        gateway.http(key) as client,
        gateway.sdk(key, http_client=httpx.AsyncClient(event_hooks={"response": [let_go]})) as sdk,
    ):
        running = asyncio.create_task(client.post(CHAT_PATH, json=FULL))
        await until(lambda: _is(gate.inside == 1))
        messages: Any = FULL["messages"]
        answer = await sdk.chat.completions.create(model="odd", max_tokens=100, messages=messages)
        assert (await running).status_code == 200
    assert statuses == [429, 200]
    assert answer.usage is not None


IMAGES = ("/v1/images/generations", {"model": "painter", "prompt": "A toll gate"})
PRICED = [
    (CHAT_PATH, {"model": CHAT, "messages": [{"role": "user", "content": "Hello"}]}),
    (CHAT_PATH, {"model": "odd", "messages": []}),
    (CHAT_PATH, {"model": "org/slashed", "messages": []}),
    ("/v1/embeddings", {"model": EMBEDDING, "input": "one two"}),
    IMAGES,
]


@pytest.mark.parametrize(("path", "body"), PRICED, ids=lambda value: value["model"] if isinstance(value, dict) else "")
async def test_every_priced_model_is_charged_and_limited(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    """User report 16: a price that an operator made up counts as any other, and none is taken for free."""
    key = await gateway.new_key(quota={"kind": "total", "limit": "0.000000001"})
    async with gateway.http(key) as client:
        assert (await client.post(path, json=body)).status_code == 200
        charge = await gateway.charge(key)
        assert Decimal(charge["amount"]) > 0
        assert kind(await client.post(path, json=body)) == SPENT


async def test_no_caller_can_add_series_to_the_metrics(gateway: Gateway, key: dict[str, Any]) -> None:
    """User report 29: neither by model names, nor by paths, methods or keys."""
    async with gateway.http(key) as client, httpx.AsyncClient() as scraper:
        await client.post(CHAT_PATH, json=FULL)
        await gateway.charge(key)
        before = await _series(scraper, gateway)
        for number in range(20):
            junk = f"junk-{number}"
            await client.post(CHAT_PATH, json={**FULL, "model": junk})
            await client.post(f"/v1/{junk}", json=FULL, headers={"x-request-id": junk, "user-agent": junk})
            await client.request(f"JUNK{number}", CHAT_PATH)
        assert await _series(scraper, gateway) == before
        assert not any("junk" in series.lower() or key["id"] in series for series in before)


async def _series(scraper: httpx.AsyncClient, gateway: Gateway) -> set[str]:
    lines = (await scraper.get(gateway.stack.metrics_url)).text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


@pytest.fixture(scope="module")
async def deserted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Gateway, dict[str, Any]]]:
    """A gateway whose Keytoll is gone, and a key of it."""
    async with gateway_in(tmp_path_factory.mktemp("deserted")) as gateway:
        key = await gateway.new_key()
        await gateway.stack.keytoll.stop()
        yield gateway, key
        await gateway.stack.keytoll.start()


@asynccontextmanager
async def answering_checks(gateway: Gateway, answer: bytes | grpc.StatusCode) -> AsyncIterator[list[bytes]]:
    """Answer every Check in Keytoll's place, and give the list of those that came."""
    came: list[bytes] = []

    async def check(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        came.append(message)
        if isinstance(answer, bytes):
            return answer
        raise await context.abort(answer, "as the test says")

    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(check)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(CHECK_SERVICE, {"Check": method}),))
    socket = gateway.run_dir / "envoy.sock"
    socket.unlink(missing_ok=True)
    with short_path(socket) as path:
        assert server.add_insecure_port(f"unix:{path}")
        await server.start()
    try:
        yield came
    finally:
        await server.stop(None)


FAILURES = [pytest.param(code, id=code.name) for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
GARBAGE = pytest.param(b"\xff\xff\xff", id="garbage")
SILENT = [
    pytest.param(b"", id="empty"),
    pytest.param(CheckResponse(ok_response=OkHttpResponse()).SerializeToString(), id="ok and nothing else"),
]


@pytest.mark.parametrize("answer", [*FAILURES, GARBAGE, *SILENT])
async def test_whatever_a_broken_check_answers_nothing_passes(
    deserted: tuple[Gateway, dict[str, Any]], answer: bytes | grpc.StatusCode
) -> None:
    """User report 31: each error that gRPC has, UNAVAILABLE too, and each answer that decides nothing, is a 503."""
    await _assert_nothing_passes(*deserted, answer, size=10)


@pytest.mark.parametrize("answer", [*FAILURES, GARBAGE])
async def test_whatever_a_broken_check_of_a_large_body_answers_nothing_passes(
    deserted: tuple[Gateway, dict[str, Any]], answer: bytes | grpc.StatusCode
) -> None:
    """User report 31: the same before a large body is taken."""
    await _assert_nothing_passes(*deserted, answer, size=2_000_000)


async def _assert_nothing_passes(
    gateway: Gateway, key: dict[str, Any], answer: bytes | grpc.StatusCode, *, size: int
) -> None:
    gateway.odd.reset()
    body = json.dumps({"model": "odd", "messages": [{"role": "user", "content": "x" * size}]})
    async with answering_checks(gateway, answer) as came, gateway.http(key) as client:

        async def asked() -> httpx.Response | None:
            sent = {"content-type": "application/json", "x-kt-route": "model/odd", "x-kt-known": "1"}
            response = await client.post(CHAT_PATH, content=body, headers=sent)
            return response if came else None  # Envoy may not have noticed yet that somebody answers again

        response = await until(asked)
    assert response.status_code == 503
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "service_unavailable")
    assert gateway.odd.asked == []
