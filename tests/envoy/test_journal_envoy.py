"""The journal with the real Envoy as its writer: rotated under load, killed, frozen, and with a disk that is full."""

import asyncio
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from cds_envoy import free_port, until
from ruamel.yaml import YAML
from settlement.conftest import NOW_US, PRICES, Desk
from settlement.lines import charge, facts
from told import told

from keytoll.envoy.admin import Admin, AdminRefused, AdminUnavailable
from keytoll.envoy.clusters import find_envoy
from keytoll.envoy.guard import DiskGuard
from keytoll.envoy.rotation import JournalRotation
from keytoll.envoy.watch import EnvoyWatch
from keytoll.store.sqlite import SqliteStore

_TYPE = "type.googleapis.com/envoy.extensions."
_PROJECT = Path(__file__).resolve().parents[2]
_CHECK = """
-- What Check and the usage filter would have left: here a request's headers say it.
function envoy_on_request(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  for name, value in pairs(handle:headers()) do
    local field = name:match("^x%-check%-(.+)$")
    if field then metadata:set("envoy.filters.http.ext_authz", field:gsub("-", "_"), value) end
  end
  metadata:set("kt.usage", "prompt_tokens", 10)
  metadata:set("kt.usage", "completion_tokens", tonumber(handle:headers():get("x-test-output")))
end
"""


def _journal() -> list[Any]:
    """The access log of the project's own envoy.yaml."""
    document = YAML(typ="safe").load((_PROJECT / "envoy.yaml").read_text())
    for listener in document["static_resources"]["listeners"]:
        for access_log in listener["filter_chains"][0]["filters"][0]["typed_config"].get("access_log", []):
            if access_log["name"] == "journal":
                return [access_log]
    raise AssertionError("envoy.yaml has no journal")


def _bootstrap(port: int) -> dict[str, Any]:
    lua = {"@type": f"{_TYPE}filters.http.lua.v3.Lua", "default_source_code": {"inline_string": _CHECK}}
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}]
    manager = {
        "@type": f"{_TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "data",
        "access_log": _journal(),
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "lua", "typed_config": lua},
            {"name": "router", "typed_config": {"@type": f"{_TYPE}filters.http.router.v3.Router"}},
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "admin": {"address": {"pipe": {"path": "admin.sock"}}},
        "static_resources": {"listeners": [{"name": "data", "address": address, "filter_chains": [chain]}]},
    }


@dataclass
class Writer:
    """An Envoy that journals as the project's does, and a client of it."""

    run_dir: Path
    port: int
    admin: Admin
    client: httpx.AsyncClient
    process: asyncio.subprocess.Process | None = None
    answered: list[int] = field(default_factory=list)

    @property
    def journal(self) -> Path:
        return self.run_dir / "journal"

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.journal.iterdir())

    async def ask(self, number: int) -> None:
        headers = {f"x-check-{name.replace('_', '-')}": str(value) for name, value in told(facts(number)).items()}
        response = await self.client.get("/", headers={**headers, "x-test-output": str(number)})
        assert response.status_code == 200
        self.answered.append(number)

    async def start(self) -> None:
        """Start it as `make run` does, and wait until it serves."""
        with (self.run_dir / "envoy.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(find_envoy(), "-c", "envoy.json", "--concurrency", "2", "--disable-hot-restart"),
                *("--log-level", "warn", "--file-flush-interval-msec", "100", "--use-dynamic-base-id"),
                cwd=self.run_dir,
                stdout=log,
                stderr=log,
            )
        await until(self._is_up)

    async def end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()

    async def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, (self.run_dir / "envoy.log").read_text()
        try:
            await self.admin.uptime_s()
            return (await self.client.get("/")).status_code == 200
        except (AdminUnavailable, httpx.TransportError):
            return False


@asynccontextmanager
async def a_writer(*, started: bool = True) -> AsyncIterator[Writer]:
    async with AsyncExitStack() as stack:
        run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kt-")))
        (run_dir / "journal").mkdir()
        port = free_port()
        (run_dir / "envoy.json").write_text(json.dumps(_bootstrap(port)))
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)
        admin = await stack.enter_async_context(Admin(run_dir / "admin.sock"))
        writer = Writer(run_dir, port, admin, await stack.enter_async_context(client))
        stack.push_async_callback(writer.end, signal.SIGKILL)
        if started:
            await writer.start()
        yield writer


@pytest.fixture
async def writer() -> AsyncIterator[Writer]:
    async with a_writer() as made:
        yield made


@pytest.fixture
async def desk(writer: Writer, tmp_path: Path) -> AsyncIterator[Desk]:
    store = await SqliteStore.open(tmp_path / "keytoll.db")
    await store.note_prices([("m", 0, PRICES)], 0)
    yield Desk(store, writer.journal)
    await store.close()


@asynccontextmanager
async def keytoll(desk: Desk, writer: Writer, *, segment_bytes: int = 20_000) -> AsyncIterator[JournalRotation]:
    """The parts of Keytoll that follow and rotate a journal, at work; sizes are looked at more often than elsewhere."""
    rotation = JournalRotation(follower=desk.follower, writer=writer.admin, segment_bytes=segment_bytes, grace_s=0.3)

    async def rotate() -> None:
        while True:
            with suppress(AdminUnavailable):
                await rotation.step()
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(desk.follower.run()), asyncio.create_task(rotate())]
    try:
        yield rotation
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def load(writer: Writer, numbers: Iterable[int], *, callers: int = 4) -> None:
    """Ask as fast as it goes."""
    left = iter(numbers)

    async def call() -> None:
        for number in left:
            await writer.ask(number)

    await asyncio.gather(*(call() for _ in range(callers)))


async def settled(desk: Desk, expected: Iterable[int]) -> None:
    """Wait until as many charges are there, and compare."""
    wanted = [charge(number) for number in sorted(expected)]

    async def enough() -> bool:
        return len(await desk.charges()) >= len(wanted)

    await until(enough, within_s=20)
    assert await desk.charges() == wanted
    assert desk.counted("unreadable") == 0


async def true(condition: bool) -> bool:
    return condition


async def test_rotated_ten_times_under_load_with_restarts_nothing_is_lost_or_doubled(
    desk: Desk, writer: Writer
) -> None:
    """Keytoll is killed and started anew twice; in the end only Envoy's own file is left."""
    numbers, renamed = count(), 0
    for _ in range(3):
        desk = await desk.restarted()
        async with keytoll(desk, writer) as rotation:
            while rotation.renamed < 4:
                await load(writer, islice(numbers, 100))
        renamed += rotation.renamed
    async with keytoll(desk, writer):
        await settled(desk, writer.answered)
        await until(lambda: true(writer.files == ["journal.jsonl"]))
        await until(lambda: _knows_no_gone_file(desk))
    assert renamed >= 10


async def _knows_no_gone_file(desk: Desk) -> bool:
    return len(await desk.store.positions()) <= 1


async def test_sigterm_of_envoy_amid_rotation_loses_nothing(desk: Desk, writer: Writer) -> None:
    numbers = count()
    async with keytoll(desk, writer, segment_bytes=5_000):
        for _ in range(3):
            await load(writer, (next(numbers) for _ in range(60)))
            await writer.end(signal.SIGTERM)
            await writer.start()
        await settled(desk, writer.answered)
        await until(lambda: true(writer.files == ["journal.jsonl"]))


async def test_sigkill_of_envoy_doubles_nothing_and_charges_what_it_wrote(desk: Desk, writer: Writer) -> None:
    async with keytoll(desk, writer, segment_bytes=5_000):
        await load(writer, range(100))
        await settled(desk, range(100))
        await load(writer, range(100, 130))
        await writer.end(signal.SIGKILL)
        await writer.start()
        await load(writer, range(130, 160))
        await until(lambda: _has(desk, range(130, 160)))
    charges = await desk.charges()
    assert len(charges) == len(set(charges))
    assert set(charges) <= {charge(n) for n in range(160)}
    assert {charge(n) for n in (*range(100), *range(130, 160))} <= set(charges)
    assert desk.counted("repeated") == 0


async def _has(desk: Desk, numbers: Iterable[int]) -> bool:
    return {charge(n) for n in numbers} <= set(await desk.charges())


async def test_a_frozen_envoy_is_not_renamed_away_from_twice(desk: Desk, writer: Writer) -> None:
    """Its reopening times out; once it goes on, what it held is charged and the segment goes."""
    rotation = JournalRotation(follower=desk.follower, writer=writer.admin, segment_bytes=5_000, grace_s=0.3)
    await load(writer, range(30))
    await until(lambda: true(_size(writer.journal / "journal.jsonl") > 5_000))
    assert writer.process is not None
    writer.process.send_signal(signal.SIGSTOP)
    with pytest.raises(AdminUnavailable):
        await rotation.step()
    assert writer.files == ["journal-000001.jsonl"]
    writer.process.send_signal(signal.SIGCONT)
    await load(writer, range(30, 60))
    async with keytoll(desk, writer):
        await settled(desk, range(60))
        await until(lambda: true(writer.files == ["journal.jsonl"]))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def test_a_full_disk_stops_admission_until_writes_succeed_again(desk: Desk, writer: Writer) -> None:
    """/dev/full fails every write as a full disk does; Envoy answers 200 all the same."""
    now_s = 0.0
    guard = DiskGuard(
        disks={}, envoys={"Envoy": writer.admin}, floor_bytes=0, metrics=desk.metrics, monotonic=lambda: now_s
    )
    await guard.look()
    assert guard.problem is None
    live = writer.journal / "journal.jsonl"
    live.unlink()
    live.symlink_to("/dev/full")
    await writer.admin.reopen_logs()
    await load(writer, range(10))

    async def blocked() -> bool:
        await guard.look()
        return guard.problem is not None

    await until(blocked)
    assert guard.problem == "Envoy failed to write its log"
    lost = desk.metrics.registry.get_sample_value("keytoll_envoy_log_write_failures_total")
    assert lost is not None
    assert lost >= 1
    live.unlink()
    await writer.admin.reopen_logs()
    await until(lambda: true(live.exists()))
    await writer.ask(11)
    now_s = 4.0
    await guard.look()
    assert guard.problem is not None
    now_s = 60.0
    await guard.look()
    assert guard.problem is None
    async with keytoll(desk, writer):
        await until(lambda: _has(desk, [11]))
    assert set(await desk.charges()) < {charge(n) for n in range(12)}  # some of the first ten are lost


async def test_write_failures_of_an_envoy_count_anew_after_its_restart(desk: Desk, writer: Writer) -> None:
    """The first look takes what it finds as past; after a restart of Envoy anything at all is new."""
    live = writer.journal / "journal.jsonl"
    live.unlink()
    live.symlink_to("/dev/full")
    await writer.admin.reopen_logs()
    await writer.ask(1)
    await until(lambda: _fails(writer.admin))
    await until(lambda: _has_run(writer.admin, s=2))
    guard = DiskGuard(disks={}, envoys={"Envoy": writer.admin}, floor_bytes=0, metrics=desk.metrics)
    await guard.look()
    assert guard.problem is None
    await writer.end(signal.SIGKILL)
    await guard.look()
    assert guard.problem is None
    await writer.start()
    await writer.ask(2)
    await until(lambda: _fails(writer.admin))
    await guard.look()
    assert guard.problem == "Envoy failed to write its log"


async def _fails(admin: Admin) -> bool:
    return await admin.log_writes_failed() > 0


async def _has_run(admin: Admin, *, s: int) -> bool:
    return await admin.uptime_s() >= s


# --- is it certain that an Envoy is gone? ---


@dataclass
class Clock:
    s: float = 1_000.0

    def us(self) -> int:
        return NOW_US + int(self.s * 1_000_000)


def watch_of(admin: Admin, clock: Clock) -> EnvoyWatch:
    return EnvoyWatch(admin, clock=clock.us, monotonic=lambda: clock.s)


async def test_what_was_admitted_before_envoy_started_is_over(writer: Writer) -> None:
    clock = Clock()
    watch = watch_of(writer.admin, clock)
    assert (watch.up, watch.dead_before_us) == (None, 0)
    await watch.look()
    assert watch.up is True
    assert clock.us() - 10_000_000 < watch.dead_before_us <= clock.us() - 1_000_000


async def test_a_refused_connection_tells_after_some_seconds_that_envoy_is_gone(writer: Writer) -> None:
    """SIGKILL leaves the socket's file behind. The first refusal counts, once they go on for five seconds."""
    clock = Clock()
    watch = watch_of(writer.admin, clock)
    await writer.end(signal.SIGKILL)
    with pytest.raises(AdminRefused):
        await writer.admin.uptime_s()
    first_us = clock.us()
    for _ in range(5):
        await watch.look()
        clock.s += 1
        assert (watch.up, watch.dead_before_us) == (False, 0)
    await watch.look()
    assert watch.dead_before_us == first_us
    clock.s -= 500
    await watch.look()
    assert watch.dead_before_us == first_us


async def test_a_frozen_envoy_or_a_missing_socket_says_nothing(writer: Writer) -> None:
    clock = Clock()
    watch = watch_of(writer.admin, clock)
    await watch.look()
    before_us = watch.dead_before_us
    assert writer.process is not None
    writer.process.send_signal(signal.SIGSTOP)
    clock.s += 100
    await watch.look()
    assert (watch.up, watch.dead_before_us) == (None, before_us)
    await writer.end(signal.SIGKILL)
    (writer.run_dir / "admin.sock").unlink()
    for _ in range(10):
        clock.s += 1
        await watch.look()
    assert (watch.up, watch.dead_before_us) == (None, before_us)


async def test_refusals_that_an_answer_interrupts_count_anew(writer: Writer) -> None:
    clock = Clock()
    watch = watch_of(writer.admin, clock)
    await writer.end(signal.SIGKILL)
    await watch.look()
    await writer.start()
    clock.s += 3
    await watch.look()
    up_since_us = watch.dead_before_us
    await writer.end(signal.SIGKILL)
    clock.s += 3
    await until(lambda: _is_down(watch))
    assert watch.dead_before_us == up_since_us


async def _is_down(watch: EnvoyWatch) -> bool:
    await watch.look()
    return watch.up is False
