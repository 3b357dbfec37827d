"""Pods that share a PostgreSQL database: one is scaled down, and the database fails over."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from postgres_server import PostgresServer, postgres_server

from deploy.pod import MODEL, Pod, backend, until
from deploy.test_drain import SHORT, Load
from deploy.test_postgres_pod import last_event, rows_of

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
SPARED_S = 1.5
"""For so long at least an outage of the database is not seen: KEYTOLL_MAX_STALENESS_S, and a renewal of the lease less."""


async def test_a_pod_that_is_scaled_down_fails_no_request_and_leaves_neither_charges_nor_quota_behind(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = await postgres.new_database(empty=True)
    async with backend() as port:
        stays, goes = (Pod(tmp_path / name, port, SHORT | {"KEYTOLL_STORE": url}) for name in ("stays", "goes"))
        async with stays.running() as staying, goes.running() as going:
            key = await stays.new_key(quota={"kind": "monthly", "limit": "1000"})
            loads = [Load(pod.url, {"authorization": f"Bearer {key['secret']}"}) for pod in (stays, goes)]
            callers = [asyncio.create_task(load.keep_asking()) for load in loads for _ in range(4)]
            async with asyncio.timeout(20):
                while not all(load.answers["200"] > 20 for load in loads):
                    await asyncio.sleep(0.01)
            assert await rows_of(url, "SELECT count(DISTINCT replica) FROM grants WHERE granted_nano > 0") == [(2,)]
            assert await going.end() == (0, "")
            assert (last_event(goes)["event"], last_event(goes)["holds_left"]) == ("settled", 0)
            id_ = (goes.private_dir / "replica").read_text().strip()
            assert await rows_of(url, f"SELECT sum(granted_nano) FROM grants WHERE replica = '{id_}'") in (
                [(0,)],
                [(None,)],
            )
            assert await staying.end() == (0, "")
            await asyncio.gather(*callers)
    assert [set(+load.answers) for load in loads] == [{"200"}, {"200"}]
    admitted = sum(load.answers["200"] for load in loads)
    assert await rows_of(url, "SELECT count(*), count(DISTINCT decision_id) FROM charges") == [(admitted, admitted)]


@dataclass
class Callers:
    """Callers who go on through an outage: what they were answered, and when."""

    secret: str
    answers: Counter[str] = field(default_factory=Counter)
    failed_s: list[float] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep_asking(self, pod: Pod) -> None:
        headers = {"authorization": f"Bearer {self.secret}"}
        async with httpx.AsyncClient(base_url=pod.url, headers=headers, timeout=30) as client:
            while not self.stop.is_set():
                answer = await client.post("/v1/chat/completions", json=ASK)
                if not answer.is_success:
                    assert (answer.json()["error"]["code"], answer.headers["retry-after"]) == (
                        "service_unavailable",
                        "1",
                    )
                    self.failed_s.append(time.monotonic())
                self.answers[str(answer.status_code)] += 1
                await asyncio.sleep(0.02)


async def test_a_failover_is_seen_late_and_ends_soon_and_each_request_is_charged_once(tmp_path: Path) -> None:
    """Callers get no 503 while the replicas' leases last, and answers again soon after the standby has been promoted."""
    async with AsyncExitStack() as stack:
        primary = stack.enter_context(postgres_server())
        standby = stack.enter_context(postgres_server(following=primary))
        url = (await primary.new_database(empty=True)).replace("127.0.0.1", f"127.0.0.1:{standby.port},127.0.0.1")
        await primary.administer("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await primary.administer("SELECT pg_reload_conf()")
        port = await stack.enter_async_context(backend())
        environment = SHORT | {"KEYTOLL_STORE": f"{url}?target_session_attrs=read-write"}
        pods = [Pod(tmp_path / name, port, environment) for name in ("one", "other")]
        for pod in pods:
            await stack.enter_async_context(pod.running())
        callers = Callers((await pods[0].new_key())["secret"])
        asking = [asyncio.create_task(callers.keep_asking(pod)) for pod in pods]
        await until(at_least(callers, "200", 20))
        killed_s = time.monotonic()
        primary.stop(signal.SIGQUIT)
        await until(at_least(callers, "503", 20))
        await standby.administer("SELECT pg_promote()")
        await until(at_least(callers, "200", callers.answers["200"] + 20))
        callers.stop.set()
        await asyncio.gather(*asking)
        assert min(callers.failed_s) - killed_s > SPARED_S
        assert callers.answers.keys() == {"200", "503"}
        charges = await pods[0].charged(callers.answers["200"])
        assert len({row["decision_id"] for row in charges}) == len(charges) == callers.answers["200"]


def at_least(callers: Callers, status: str, number: int) -> Callable[[], Awaitable[bool]]:
    """Return what asks whether callers have had so many answers of a status."""

    async def asked() -> bool:
        return callers.answers[status] >= number

    return asked
