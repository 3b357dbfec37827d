"""The replicas' ways to PostgreSQL: each is a proxy of its own, so that one can be cut off from it.

They run on an event loop in a thread of their own. On the callers' own loop, a burst of them would slow the store down.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from proxy import Proxy

PATIENCE_S = 10.0


class Link:
    """What is done to it has happened when the call returns."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop

    @property
    def port(self) -> int:
        return self._proxy.port

    @property
    def round_trips(self) -> int:
        """How often PostgreSQL has answered so far."""
        return self._proxy.round_trips

    def cut_off(self) -> None:
        """Cut all connections, and refuse every other."""
        self._do(self._proxy.close)

    def restore(self) -> None:
        """Take connections again, and pass everything on at once."""
        self._do(self._proxy.speak)
        self.delay(0)
        self._run(self._proxy.open())

    def reset(self) -> None:
        """Cut all connections by a TCP reset."""
        self._do(self._proxy.reset)

    def fall_silent(self) -> None:
        """Keep all connections, and take others, but pass nothing on."""
        self._do(self._proxy.fall_silent)

    def delay(self, seconds: float) -> None:
        """Let each piece take so long, each way."""
        self._proxy.delay_s = seconds

    def _do(self, act: Callable[[], None]) -> None:
        async def acted() -> None:
            act()

        self._run(acted())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)


@contextmanager
def links_to(port: int, number: int) -> Iterator[Sequence[Link]]:
    """Run so many links to PostgreSQL's port."""
    started: Future[tuple[Sequence[Link], Callable[[], None]]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(port, number, started)))
    thread.start()
    links, stop = started.result(PATIENCE_S)
    try:
        yield links
    finally:
        stop()
        thread.join(PATIENCE_S)


async def _serve(port: int, number: int, started: "Future[tuple[Sequence[Link], Callable[[], None]]]") -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    proxies = [Proxy(port) for _ in range(number)]
    for proxy in proxies:
        await proxy.open()
    links = [Link(proxy, loop) for proxy in proxies]
    started.set_result((links, lambda: _set(loop, stop)))
    await stop.wait()
    for proxy in proxies:
        proxy.speak()
        proxy.close()


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)
