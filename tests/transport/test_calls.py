"""What gRPC's own client gets, over each transport."""

import asyncio
import stat
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keytoll.envoy.check import CHECK_SERVICE
from transport.conftest import TRANSPORTS, Served, check_of, served
from transport.scripted import until

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, MIB, 5 * MIB])
@pytest.mark.parametrize("how", ["", "later "], ids=["at once", "later"])
async def test_an_answer_of_any_size_arrives_whole(service: Served, size: int, how: str) -> None:
    async with service.channel() as channel:
        assert await check_of(channel)(f"{how}size {size}".encode()) == bytes(size)
    assert not service.script.voided


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 4 * MIB])
async def test_a_message_of_any_size_up_to_four_mib_arrives_whole(service: Served, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with service.channel() as channel:
        assert await check_of(channel)(message) == message


async def test_a_larger_message_is_refused_and_its_connection_goes_on(service: Served) -> None:
    async with service.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check_of(channel)(bytes(4 * MIB + 1))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await check_of(channel)(b"well") == b"well"
    assert service.script.asked == [b"well"]


async def test_many_calls_at_once_each_get_their_own_answer(service: Served) -> None:
    async with service.channel() as one, service.channel() as two:
        messages = [f"{'later ' * (number % 3)}number {number}".encode() for number in range(600)]
        calls = [check_of(one if number % 2 else two)(message) for number, message in enumerate(messages)]
        answers = await asyncio.gather(*calls)
    assert answers == [message.replace(b"later ", b"") for message in messages]


async def test_calls_that_wait_hold_up_no_others(service: Served) -> None:
    async with service.channel() as channel:
        waiting = [check_of(channel)(f"wait {number}".encode()) for number in range(50)]
        pending = asyncio.gather(*waiting)
        await until(lambda: len(service.script.asked) == 50)
        assert await check_of(channel)(b"quick") == b"quick"
        service.script.gate.set()
        assert await pending == [f"wait {number}".encode() for number in range(50)]


async def test_a_deadline_ends_the_call_and_what_works_for_it(service: Served) -> None:
    async with service.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await check_of(channel)(b"wait", timeout=1.0)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: service.script.cancelled == 1)
        assert await check_of(channel)(b"well", timeout=10) == b"well"


async def test_a_cancelled_call_ends_what_works_for_it(service: Served) -> None:
    async with service.channel() as channel:
        call = check_of(channel)(b"wait")
        await until(lambda: service.script.asked)
        call.cancel()
        await until(lambda: service.script.cancelled == 1)
        assert await check_of(channel)(b"well") == b"well"


@pytest.mark.parametrize("how", [b"", b"later "], ids=["at once", "later"])
async def test_garbage_and_faults_are_errors_of_their_call_that_tell_nothing(service: Served, how: bytes) -> None:
    async with service.channel() as channel:
        for message, code in (
            (b"garbage", grpc.StatusCode.INVALID_ARGUMENT),
            (b"fault", grpc.StatusCode.INTERNAL),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await check_of(channel)(how + message)
            assert refused.value.code() is code
            assert "secret" not in (refused.value.details() or "")
        assert await check_of(channel)(b"well") == b"well"


async def test_other_methods_are_unimplemented(service: Served) -> None:
    async with service.channel() as channel:
        for path in (f"/{CHECK_SERVICE}/Look", "/some.Service/Check"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await check_of(channel, path)(b"")
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_knows_check_and_nothing_else(service: Served) -> None:
    async with service.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", CHECK_SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_who_watches_health_is_told_of_the_end(service: Served) -> None:
    status = health_pb2.HealthCheckResponse
    async with service.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        known = health.Watch(health_pb2.HealthCheckRequest(service=CHECK_SERVICE))
        unknown = health.Watch(health_pb2.HealthCheckRequest(service="other"))
        assert (await known.read()).status == status.SERVING
        assert (await unknown.read()).status == status.SERVICE_UNKNOWN
        stopping = asyncio.create_task(service.server.stop(grace_s=0.5))
        assert (await known.read()).status == status.NOT_SERVING
        await stopping
        assert await known.code() is not grpc.StatusCode.OK


async def test_health_refuses_garbage_and_keeps_deadlines(service: Served) -> None:
    async with service.channel() as channel:
        for name in ("Check", "Watch"):
            code = await check_of(channel, f"/grpc.health.v1.Health/{name}")(b"\xff").code()
            # Of grpcio's own health service it is an unexpected exception.
            assert code is (
                grpc.StatusCode.INVALID_ARGUMENT if service.transport == "ngh2" else grpc.StatusCode.UNKNOWN
            )
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=1.0)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert await watch.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await check_of(channel)(b"well") == b"well"


async def test_a_watcher_of_health_may_leave(service: Served) -> None:
    async with service.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(3):
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()
        assert await check_of(channel)(b"well") == b"well"


async def test_compressed_messages_are_refused(ngh2: Served) -> None:
    """grpcio would inflate them: a small message could become a large one, and Envoy sends none."""
    async with ngh2.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check_of(channel)(bytes(10_000), compression=grpc.Compression.Gzip)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_socket_is_open_to_owner_and_group_only(service: Served) -> None:
    mode = service.path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(tmp_path: Path, transport: str) -> None:
    for _ in range(2):
        async with served(tmp_path, transport) as service, service.channel() as channel:
            assert await check_of(channel)(b"well") == b"well"
            with pytest.raises(OSError, match=r"envoy\.sock is in use"):
                async with served(tmp_path, transport):
                    pass
            assert await check_of(channel)(b"well") == b"well"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_nothing_else_than_a_socket_is_removed(tmp_path: Path, transport: str) -> None:
    (tmp_path / "envoy.sock").write_text("mine")
    with pytest.raises(OSError, match="in the way"):
        async with served(tmp_path, transport):
            pass
    assert (tmp_path / "envoy.sock").read_text() == "mine"
