"""Draining Envoy before it is stopped, so that no request fails and no stream is cut.

Three steps. First each answer closes its connection, while new ones are still taken: whoever sends the traffic needs a
moment to learn that this Envoy goes. Then no connection is taken any more. Then it waits for the requests that run.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from keytoll.envoy.admin import Admin, AdminRefused, AdminUnavailable

_T = TypeVar("_T")
_POLL_S = 0.1
_QUIET_S = 1.0
"""For so long no request may run before the end: a connection that was idle may just have been used once more."""


class StillRunning(Exception):
    """The time is up, and requests run: `requests` of them."""

    def __init__(self, requests: int) -> None:
        super().__init__(requests)
        self.requests = requests


async def drain(admin: Admin, *, notice_s: float, within_s: float) -> None:
    """Return once Envoy may be stopped: nothing runs there, or it is gone.

    New connections are taken for the first `notice_s`. After `within_s` in all, raises StillRunning, or AdminUnavailable if
    Envoy is there and doesn't say.
    """
    until_s = time.monotonic() + within_s
    try:
        await _answered(admin.fail_health_checks, admin, until_s)
        await asyncio.sleep(min(notice_s, within_s))
        await _answered(admin.stop_listening, admin, until_s)
        await _quiet(admin, until_s)
    except AdminUnavailable as error:
        if not _is_gone(admin, error):
            raise


async def _quiet(admin: Admin, until_s: float) -> None:
    quiet_since_s: float | None = None
    while True:
        requests, now_s = await _answered(admin.requests_running, admin, until_s), time.monotonic()
        quiet_since_s = None if requests else quiet_since_s or now_s
        if quiet_since_s is not None and now_s - quiet_since_s >= _QUIET_S:
            return
        if now_s > until_s:
            raise StillRunning(requests)
        await asyncio.sleep(_POLL_S)


async def _answered(ask: Callable[[], Awaitable[_T]], admin: Admin, until_s: float) -> _T:
    """Ask again while Envoy is too busy to answer: to take that for its end would cut what it is busy with."""
    while True:
        try:
            return await ask()
        except AdminUnavailable as error:
            if _is_gone(admin, error) or time.monotonic() > until_s:
                raise
        await asyncio.sleep(_POLL_S)


def _is_gone(admin: Admin, error: AdminUnavailable) -> bool:
    return isinstance(error, AdminRefused) or admin.bound_us() is None
