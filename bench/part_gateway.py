"""The complete gateway, settlement included, beside an Envoy without any filter."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import books, envoys
from bench.gateway import Gateway, backend, gateway
from bench.load import Caller
from bench.processes import cpu_us, envoy
from bench.results import Row, Target, ratios, table
from keytoll.demo.part import Part
from keytoll.demo.ports import Ports

P50 = Target("p50 at one connection, of an Envoy without any filter", 2.5)
ENVOY_CPU = Target("Envoy's CPU a request, of one without any filter", 2.2)
RATE = Target("requests a second at 32 connections, of an Envoy without any filter", 0.4, at_least=True)
KEYTOLL_CPU = Target("CPU of a settled request in Keytoll, of Envoy's for it", 0.3)
ROUNDS, SECONDS, ALONE_S, CONNECTIONS = 5, 3, 1, 32


@dataclass
class _Rounds:
    """Round by round: microseconds of CPU a request, requests a second, and p50 at one connection in microseconds."""

    envoy_us: list[float] = field(default_factory=list)
    keytoll_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)


async def run() -> Sequence[Row]:
    """Measure, and tell beside it how that is where the backend's connections are kept."""
    rows = await _measured(reads_first=False)
    print("  the same before a backend that reads a request first, so that its connections are kept:")
    kept = [
        Row(replace(row.target, name=f"  {row.target.name}"), row.rounds) for row in await _measured(reads_first=True)
    ]
    print(table(kept))
    return rows


async def _measured(*, reads_first: bool) -> Sequence[Row]:
    bare_rounds, complete_rounds = _Rounds(), _Rounds()
    with TemporaryDirectory(prefix="keytoll-bench-") as name:
        folder, ports = Path(name), Ports.free()
        async with (
            backend(folder, ports.backend, reads_first=reads_first),
            envoy("bare", envoys.bare(ports.data, ports.backend), folder=folder) as bare,
            gateway(folder, backend_port=ports.backend) as complete,
        ):
            caller = Caller(folder, [books.secret_of(0)])
            for port in (ports.data, complete.port):
                await caller.run(port, connections=CONNECTIONS, seconds=1)
            for _ in range(ROUNDS):
                await _measure_bare(bare, ports.data, caller, bare_rounds)
                await _measure_complete(complete, caller, complete_rounds)
    _tell("without any filter", bare_rounds)
    _tell("complete", complete_rounds)
    return [
        Row(P50, ratios(complete_rounds.p50_us, bare_rounds.p50_us)),
        Row(ENVOY_CPU, ratios(complete_rounds.envoy_us, bare_rounds.envoy_us)),
        Row(RATE, ratios(complete_rounds.per_s, bare_rounds.per_s)),
        Row(KEYTOLL_CPU, ratios(complete_rounds.keytoll_us, complete_rounds.envoy_us)),
    ]


async def _measure_bare(bare: Part, port: int, caller: Caller, rounds: _Rounds) -> None:
    rounds.p50_us.append((await caller.run(port, connections=1, seconds=ALONE_S)).latency_us[50.0])
    before_us = cpu_us(bare.pid)
    load = await caller.run(port, connections=CONNECTIONS, seconds=SECONDS)
    rounds.envoy_us.append((cpu_us(bare.pid) - before_us) / load.requests)
    rounds.per_s.append(load.per_s)


async def _measure_complete(complete: Gateway, caller: Caller, rounds: _Rounds) -> None:
    alone = await caller.run(complete.port, connections=1, seconds=ALONE_S)
    rounds.p50_us.append(alone.latency_us[50.0])
    await complete.until_settled(alone.requests)
    settled, envoy_us, keytoll_us = complete.settled(), cpu_us(complete.envoy.pid), cpu_us(complete.keytoll.pid)
    load = await caller.run(complete.port, connections=CONNECTIONS, seconds=SECONDS)
    await complete.until_settled(settled + load.requests)
    requests = complete.settled() - settled
    rounds.envoy_us.append((cpu_us(complete.envoy.pid) - envoy_us) / requests)
    rounds.keytoll_us.append((cpu_us(complete.keytoll.pid) - keytoll_us) / requests)
    rounds.per_s.append(load.per_s)


def _tell(what: str, rounds: _Rounds) -> None:
    told = {
        "us of Envoy's CPU": rounds.envoy_us,
        "us of Keytoll's CPU": rounds.keytoll_us,
        "requests/s": rounds.per_s,
        "us p50": rounds.p50_us,
    }
    parts = [f"{min(found):.0f} to {max(found):.0f} {unit}" for unit, found in told.items() if found]
    print(f"  {what}: {', '.join(parts)}")
