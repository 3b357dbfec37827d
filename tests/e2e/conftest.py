"""The whole of it: the real Envoy with the project's envoy.yaml, Keytoll, the demo backend and a backend that misbehaves
as a test tells it to. One gateway serves every test that doesn't break it; those that do open their own.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest

from e2e.scripted import ScriptedBackend
from keytoll.demo.ports import Ports
from keytoll.demo.stack import PROJECT, Stack, StackSettings
from keytoll.http.server import serve_tcp

CHAT, EMBEDDING = "Qwen2.5-72B-Instruct", "bge-m3"
PATIENCE_S = 20.0
MORE_OF_THE_DEMO = """
  reranker: {context_length: 1000, price: {input: 1, output: 0}, backends: [{model: demo-rerank, DEMO}]}
  moderator: {context_length: 1000, price: {input: 1, output: 0}, backends: [{model: demo-moderation, DEMO}]}
  painter: {context_length: 1000, price: {input: 1, output: 10, request: 0.5}, backends: [{model: demo-image, DEMO}]}
  voice: {context_length: 1000, price: {input: 1, output: 2}, backends: [{model: demo-speech, DEMO}]}
  ear:
    context_length: 1000
    price: {input: 1, audio_input: 3, output: 2, request: 0.25}
    backends: [{model: demo-transcription, DEMO}]
""".replace("DEMO", 'url: "http://127.0.0.1:8082/v1", credential: demo, allow_local: true')
ODD = """
  odd:
    context_length: 1000
    price: {input: 1, output: 2}
    backends:
    - {url: "http://127.0.0.1:PORT/v1", model: odd-upstream, credential: demo, allow_local: true}
  reserved:
    context_length: 1000
    price: {input: 1, output: 2}
    backends:
    - {url: "http://127.0.0.1:1/v1", allow_local: true}
    - {url: "http://127.0.0.1:PORT/v1", model: second, priority: 1, allow_local: true}
  org/slashed:
    context_length: 1000
    price: {input: 1, output: 2, request: 0.125}
    backends:
    - {url: "http://127.0.0.1:PORT/v1", model: "org/odd-upstream", allow_local: true}
"""

T = TypeVar("T")
_names = count(1)


async def until(ask: Callable[[], Awaitable[T | None]]) -> T:
    """Ask until the answer is something; fail when patience ends."""
    end_s = time.monotonic() + PATIENCE_S
    while not (answer := await ask()):
        assert time.monotonic() < end_s, f"still {answer!r} after {PATIENCE_S} s"
        await asyncio.sleep(0.03)
    return answer


@dataclass
class Gateway:
    """A running stack, with what a test does to it as a caller and as an operator."""

    stack: Stack
    odd: ScriptedBackend

    @property
    def url(self) -> str:
        return self.stack.base_url.removesuffix("/v1")

    @property
    def run_dir(self) -> Path:
        return self.stack.settings.run_dir

    async def new_key(self, owner: str = "users/alice", **fields: Any) -> dict[str, Any]:
        """Create a key; the answer holds its `secret`."""
        name = fields.pop("name", f"key {next(_names)}")
        async with self.stack.operator() as operator:
            response = await operator.post(f"/api/v1/{owner}/keys", json={"name": name, **fields})
        assert response.status_code == 201, response.text
        key: dict[str, Any] = response.json()
        return key

    async def delete_key(self, key_id: str) -> None:
        async with self.stack.operator() as operator:
            (await operator.delete(f"/api/v1/keys/{key_id}")).raise_for_status()

    async def charges(self, key: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        """Return a key's charges, oldest first, once there are as many."""

        async def ask() -> list[dict[str, Any]] | None:
            async with self.stack.operator() as operator:
                response = await operator.get("/api/v1/charges", params={"key_id": key["id"], "limit": 1000})
            found: list[dict[str, Any]] = response.raise_for_status().json()["data"]
            return found[::-1] if len(found) >= number else None

        found = await until(ask)
        assert len(found) == number
        return found

    async def charge(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return a key's only charge."""
        return (await self.charges(key, 1))[0]

    def http(self, key: Mapping[str, Any] | None = None, **options: Any) -> httpx.AsyncClient:
        """A plain client; with a key it sends it."""
        headers = {"authorization": f"Bearer {key['secret']}"} if key else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60, **options)

    def sdk(self, key: Mapping[str, Any], **options: Any) -> openai.AsyncOpenAI:
        """OpenAI's own client."""
        return openai.AsyncOpenAI(api_key=key["secret"], base_url=self.stack.base_url, **options)


@asynccontextmanager
async def gateway_in(
    folder: Path,
    *,
    envoy_yaml: Callable[[str], str] = lambda text: text,
    environment: Mapping[str, str] | None = None,
    token_delay_ms: float = 1.0,
) -> AsyncIterator[Gateway]:
    """Start a gateway of one's own."""
    odd, ports = ScriptedBackend(), Ports.free()
    async with serve_tcp(odd.app, host="127.0.0.1", port=0) as port:
        catalog = folder / "keytoll.yaml"
        demo = ((PROJECT / "keytoll.yaml").read_text() + MORE_OF_THE_DEMO).replace(":8082/", f":{ports.backend}/")
        catalog.write_text(demo + ODD.replace("PORT", str(port)))
        settings = StackSettings(
            run_dir=folder / "run",
            ports=ports,
            catalog=catalog,
            envoy_yaml=envoy_yaml,
            environment=environment or {},
            token_delay_ms=token_delay_ms,
        )
        async with Stack(settings) as stack:
            yield Gateway(stack, odd)


@pytest.fixture(scope="session")
async def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with gateway_in(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture
async def gateway(shared_gateway: Gateway) -> Gateway:
    """The gateway that all tests share; leave it as it was."""
    shared_gateway.odd.reset()
    return shared_gateway


@pytest.fixture
async def key(gateway: Gateway) -> dict[str, Any]:
    """An unlimited key of nobody else's."""
    return await gateway.new_key()
