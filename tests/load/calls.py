"""Callers: chat requests over httpx, each with a number of its own, and what became of each."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import httpx
from e2e.conftest import until

CHAT_PATH = "/v1/chat/completions"
_POOLS = 8
"""Clients to spread requests over: httpx searches its pool for each request, which is slow in a large one."""

_PAD_BYTES = 64
_TICK_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: `number` are its prompt tokens and its identity, `output` its completion tokens.

    `delay_ms` passes before each event of a stream, or before a plain answer. `cut_after`: the caller leaves after so
    many events. `limit` is its max_tokens.
    """

    number: int
    output: int
    limit: int
    model: str = "counted"
    stream: bool = False
    delay_ms: int = 0
    cut_after: int | None = None

    @property
    def body(self) -> bytes:
        """The JSON that is sent."""
        prompt = f"{self.number} {self.output} {self.delay_ms} ".ljust(_PAD_BYTES, ".")
        asked = {"model": self.model, "max_tokens": self.limit, "stream": self.stream}
        return json.dumps({**asked, "messages": [{"role": "user", "content": prompt}]}).encode()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller got: the status, 0 if the connection broke before one; an error's code; the events of a stream.

    `whole`: the answer came to its end.
    """

    ask: Ask
    status: int
    code: str | None = None
    events: int = 0
    whole: bool = False


class Callers:
    """Sends requests with one key."""

    def __init__(self, clients: list[httpx.AsyncClient]) -> None:
        self._clients = clients
        self._turn = count()
        self.refusals: Counter[str] = Counter()
        """Every refusal by its code, also those that were tried again."""

    async def send(self, ask: Ask) -> Outcome:
        """Send a request once."""
        outcome = await self._send(ask)
        if outcome.code is not None:
            self.refusals[outcome.code] += 1
        return outcome

    async def insist(self, ask: Ask, *, retries: int, pause_s: float = 1.0) -> Outcome:
        """Send a request as OpenAI's SDK does: what may be retried is tried again, after the pause that it was told."""
        outcome = await self.send(ask)
        while retries > 0 and outcome.code in ("rate_limit_exceeded", "service_unavailable"):
            await asyncio.sleep(pause_s)
            outcome, retries = await self.send(ask), retries - 1
        return outcome

    async def _send(self, ask: Ask) -> Outcome:
        client = self._clients[next(self._turn) % len(self._clients)]
        got: list[int] = []
        status = 0
        try:
            async with client.stream("POST", CHAT_PATH, content=ask.body) as response:
                status = response.status_code
                if status != 200:
                    return Outcome(ask, status, _code(await response.aread()))
                return await _read(ask, response, got)
        except httpx.TransportError:
            return Outcome(ask, status, events=len(got))


@asynccontextmanager
async def calling(*urls: str, secret: str, connections: int = 800) -> AsyncIterator[Callers]:
    """Open clients that send the key's secret, to each of the URLs in turn."""
    pools = -(-_POOLS // len(urls)) * len(urls)
    each = -(-connections // pools)
    limits = httpx.Limits(max_connections=each, max_keepalive_connections=each)
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits, trust_env=False)
            )
            for url in urls * (pools // len(urls))
        ]
        yield Callers(clients)


class Sender(Protocol):
    """What sends a request once."""

    async def send(self, ask: Ask) -> Outcome: ...


class Load:
    """Sends requests at a steady rate, however long the answers take."""

    def __init__(self, callers: Sender, asks: Iterator[Ask], *, per_second: float) -> None:
        self._callers = callers
        self._asks = asks
        self._per_second = per_second
        self.outcomes: list[Outcome] = []
        self.seconds = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while the context lasts; then every request that was sent ends."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run(stop))
            try:
                yield
            finally:
                stop.set()

    async def more(self, number: int, *, status: int = 200) -> None:
        """Return once so many more have ended with this status: then what follows falls amid answers, on any machine."""
        goal = self.ended(status) + number

        async def reached() -> bool:
            return self.ended(status) >= goal

        await until(reached)

    def ended(self, status: int) -> int:
        """Return how many have ended with this status so far."""
        return sum(outcome.status == status for outcome in self.outcomes)

    async def _run(self, stop: asyncio.Event) -> None:
        started_s, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                self.seconds = time.monotonic() - started_s
                while sent < self.seconds * self._per_second:
                    group.create_task(self._send(next(self._asks)))
                    sent += 1
                await asyncio.sleep(_TICK_S)

    async def _send(self, ask: Ask) -> None:
        self.outcomes.append(await self._callers.send(ask))


async def _read(ask: Ask, response: httpx.Response, got: list[int]) -> Outcome:
    if not ask.stream:
        await response.aread()
        return Outcome(ask, 200, whole=True)
    done = False
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            done = True
        elif line.startswith("data: "):
            got.append(1)
            if len(got) == ask.cut_after:
                break
    return Outcome(ask, 200, events=len(got), whole=done)


def _code(body: bytes) -> str | None:
    try:
        code: str | None = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code
