"""Draining Envoy before it is stopped, so that no request fails and no stream is cut.

Three steps. First each answer closes its connection, while new ones are still taken: whoever sends the traffic needs a
moment to learn that this Envoy goes. Then no connection is taken any more. Then it waits for the requests that run.
"""

import asyncio
import time

from keytoll.envoy.admin import Admin, AdminUnavailable

_POLL_S = 0.1
_QUIET_S = 1.0
"""For so long no request may run before the end: a connection that was idle may just have been used once more."""


class StillRunning(Exception):
    """The time is up, and requests run: `requests` of them."""

    def __init__(self, requests: int) -> None:
        super().__init__(requests)
        self.requests = requests


async def drain(admin: Admin, *, notice_s: float, within_s: float) -> None:
    """Return once Envoy may be stopped: nothing runs there, or it is gone. Raises StillRunning after `within_s` in all.

    New connections are taken for the first `notice_s`.
    """
    until_s = time.monotonic() + within_s
    try:
        await admin.fail_health_checks()
        await asyncio.sleep(min(notice_s, within_s))
        await admin.stop_listening()
        await _quiet(admin, until_s)
    except AdminUnavailable:
        return


async def _quiet(admin: Admin, until_s: float) -> None:
    quiet_since_s: float | None = None
    while True:
        requests, now_s = await admin.requests_running(), time.monotonic()
        quiet_since_s = None if requests else quiet_since_s or now_s
        if quiet_since_s is not None and now_s - quiet_since_s >= _QUIET_S:
            return
        if now_s > until_s:
            raise StillRunning(requests)
        await asyncio.sleep(_POLL_S)
