"""The same over the real gRPC server on its socket: garbage is an error of its call, and the server goes on."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import grpc
from settlement.conftest import NOW_US, Desk
from settlement.lines import als_message, decision

from fuzz.asking import Asking, asking_in, judge, requests
from fuzz.conftest import rng_of, share
from fuzz.judging import Told, told_by_als
from fuzz.ledger import judge_rows, judge_totals, rows_of
from fuzz.mutations import PROTOBUF, mutated
from fuzz.reporting import any_als_message, gathering
from keytoll.envoy.als import AlsSink
from keytoll.envoy.check import CHECK_SERVICE
from keytoll.envoy.server import ALS_SERVICE, EnvoyServer
from keytoll.sockets import short_path

SOUND = 10_000_000
_AT_ONCE = 50


@asynccontextmanager
async def served(folder: Path, ask: Asking, sink: AlsSink) -> AsyncIterator[grpc.aio.Channel]:
    """Serve both handlers on a socket, and give a channel to it."""
    server = EnvoyServer(folder / "envoy.sock", check=ask.handler, void=ask.handler.void, als=sink)
    await server.start()
    try:
        with short_path(folder / "envoy.sock") as path:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                yield channel
    finally:
        await server.stop(grace_s=1)


async def test_a_server_under_garbage_answers_every_call_and_stays_well(
    tmp_path: Path, desk: Desk, database: Path, report: Callable[[str], None]
) -> None:
    """A stream of log entries goes on after an undecodable message in it: those that follow are charged."""
    rng, keys, settlement = rng_of("server"), tmp_path / "keys", gathering(desk)
    keys.mkdir()
    corpus, numbers = requests(rng), count(1)
    checks = [mutated(rng, rng.choice(corpus), corpus, PROTOBUF) for _ in range(share(2))]
    others = [any_als_message(rng, numbers) for _ in range(50)]
    logs = [mutated(rng, any_als_message(rng, numbers), others, PROTOBUF) for _ in range(share(1))]
    sound = als_message(SOUND)
    async with (
        asking_in(keys) as ask,
        served(tmp_path, ask, AlsSink(settlement, clock=lambda: NOW_US)) as channel,
    ):
        log: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(f"/{ALS_SERVICE}/StreamAccessLogs")
        answered, outcomes = await asyncio.gather(log(iter([*logs, sound]), timeout=60), _check_all(channel, checks))
    assert answered == b""
    await settlement.flush()
    rows = await rows_of(desk.store)
    judge_rows(rows, [told for message in [*logs, sound] for told in _told(message)])
    judge_totals(rows, database)
    assert decision(SOUND) in {row.entry.decision_id for row in rows}
    report(f"over gRPC {len(checks):,} Checks: {dict(outcomes)}, {len(logs):,} ALS messages, {len(rows):,} charged")


async def _check_all(channel: grpc.aio.Channel, messages: Sequence[bytes]) -> Counter[str]:
    check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{CHECK_SERVICE}/Check")

    async def ask(message: bytes) -> str:
        call = check(message, timeout=60)
        code = await call.code()
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return "undecodable"
        assert code is grpc.StatusCode.OK, message
        return judge(message, await call)

    outcomes: Counter[str] = Counter()
    for start in range(0, len(messages), _AT_ONCE):
        outcomes.update(await asyncio.gather(*map(ask, messages[start : start + _AT_ONCE])))
    return outcomes


def _told(message: bytes) -> list[Told]:
    try:
        return list(told_by_als(message))
    except ValueError:  # not even protobuf, or not UTF-8
        return []
