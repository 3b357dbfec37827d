"""Mutations of what the real Envoy says on a connection, sent to a server over libnghttp2: garbage ends its own connection."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
from transport.gateway import Gateway, allow, envoy
from transport.peer import Peer, peer_of
from transport.scripted import until

from fuzz.asking import asking_in, requests
from fuzz.conftest import evidence, rng_of, share
from fuzz.mutations import BYTES, Mutation, mutated
from keytoll.envoy.messages.check_pb2 import CheckResponse
from keytoll.envoy.transport.limits import Limits
from keytoll.envoy.transport.server import Ngh2Server
from keytoll.sockets import short_path

_HEAD_BYTES = 9
_PREFACE_BYTES = 24
_CALLS = 12


async def test_a_server_under_mutated_connections_stays_well(tmp_path: Path, report: Callable[[str], None]) -> None:
    """Nothing is raised, no stream and no connection is left behind, and another connection is answered all along."""
    rng, faults, number = rng_of("connection"), list[dict[str, Any]](), share(8)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    recorded = await _recorded()
    try:
        async with asking_in(tmp_path) as ask:
            path = tmp_path / "envoy.sock"
            # A peer that says nothing holds its connection for a while; here there are thousands of them.
            server = Ngh2Server(path, check=ask.handler, void=ask.handler.void, limits=Limits(handshake_s=2.0))
            await server.start()
            outcomes = await _assail(rng, server, path, recorded, number)
            await server.stop(grace_s=1)
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert not faults, faults[0]
    report(f"{number:,} connections, mutated from one of {len(recorded):,} bytes: {dict(outcomes)}")


async def _assail(rng: Random, server: Ngh2Server, path: Path, recorded: bytes, number: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    sound = requests(rng)
    async with peer_of(path) as well:
        for count in range(number):
            data = mutated(rng, recorded, [recorded], _MUTATIONS)
            with evidence(count, data):
                outcomes[await _send(rng, path, data)] += 1
                if count % 10 == 0:
                    await _is_answered(well, rng.choice(sound))
        await until(lambda: server.connections == 1)
        assert server.open_calls == 0
    return outcomes


async def _send(rng: Random, path: Path, data: bytes) -> str:
    """Send bytes in pieces, and close, read to the end, or break off."""
    with short_path(path) as short:
        reader, writer = await asyncio.open_unix_connection(short)
    try:
        for start in range(0, len(data), size := rng.choice((1 << 20, 4096, 700))):
            writer.write(data[start : start + size])
            await writer.drain()
        return await _part(rng, reader, writer)
    except ConnectionError:
        return "closed by the server"
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _part(rng: Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    match rng.randrange(4):
        case 0:
            writer.transport.abort()
            return "broken off"
        case 1:
            return "left at once"
        case _:
            writer.write_eof()
            while await reader.read(65536):
                pass
            return "read to the end"


async def _is_answered(peer: Peer, message: bytes) -> None:
    outcome = await peer.call(message)
    assert CheckResponse.FromString(outcome.message).IsInitialized()


async def _recorded() -> bytes:
    """Return all that Envoy says on one connection, for some calls and an end of one."""
    async with envoy(concurrency=1) as gateway:
        server = Ngh2Server(gateway.folder / "server.sock", check=allow, void=lambda _: None)
        await server.start()
        try:
            async with _tapped(gateway, gateway.folder / "server.sock") as said, httpx.AsyncClient() as client:
                for number in range(_CALLS):
                    await gateway.ask(client, number, key="good" if number % 3 else "bad")
                await asyncio.gather(*(gateway.ask(client, number) for number in range(_CALLS)))
        finally:
            await server.stop(grace_s=1)
    return max(map(bytes, said), key=len)


@asynccontextmanager
async def _tapped(gateway: Gateway, to: Path) -> AsyncIterator[list[bytearray]]:
    """Stand between Envoy and the server, and keep what Envoy says, by connection."""
    said: list[bytearray] = []
    under_way: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray | None) -> None:
        with suppress(ConnectionError), closing(writer):
            while data := await reader.read(65536):
                if kept is not None:
                    kept += data
                writer.write(data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with short_path(to) as short:
            up_reader, up_writer = await asyncio.open_unix_connection(short)
        said.append(bytearray())
        for way in (relay(reader, up_writer, said[-1]), relay(up_reader, writer, None)):
            under_way.add(asyncio.create_task(way))

    with short_path(gateway.socket) as short:
        tap = await asyncio.start_unix_server(accept, short)
    try:
        yield said
    finally:
        tap.close()
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _frames(data: bytes) -> list[bytes]:
    """Return the preface and each frame; the last may be torn."""
    found, place = [data[:_PREFACE_BYTES]], _PREFACE_BYTES
    while place < len(data):
        end = place + _HEAD_BYTES + int.from_bytes(data[place : place + 3], "big")
        found.append(data[place:end])
        place = end
    return found


def _frame_moved(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    frames = _frames(data)
    frames.insert(rng.randrange(len(frames) + 1), frames.pop(rng.randrange(len(frames))))
    return b"".join(frames)


def _frame_dropped(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    frames = _frames(data)
    frames.pop(rng.randrange(len(frames)))
    return b"".join(frames)


def _frame_repeated(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    frames = _frames(data)
    place = rng.randrange(len(frames))
    return b"".join([*frames[:place], *[frames[place]] * rng.choice((2, 3, 500)), *frames[place + 1 :]])


def _frame_edited(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Change the type, the flags, the stream or the length of a frame."""
    frames = _frames(data)
    place = rng.randrange(len(frames))
    edited = bytearray(frames[place])
    if len(edited) >= _HEAD_BYTES:
        at = rng.choice((2, 3, 3, 4, 4, 5, 8, 8))
        edited[at] = rng.choice((0, 1, 3, 4, 5, 7, 9, rng.randrange(256)))
    return b"".join([*frames[:place], bytes(edited), *frames[place + 1 :]])


def _frame_added(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Add a frame of any type, well-formed or not: settings, pings, resets and window updates that Envoy never sent."""
    frames = _frames(data)
    payload = rng.choice(
        (b"", bytes(4), bytes(8), b"\0\4\0\0\0\0", b"\0\0\0\1", b"\x7f\xff\xff\xff", rng.randbytes(30))
    )
    stream_id = rng.choice((0, 1, 3, 5, 7, 9, 1001))
    head = bytes([0, 0, len(payload), rng.randrange(11), rng.choice((0, 1, 4, 5, 8))]) + stream_id.to_bytes(4, "big")
    frames.insert(rng.randrange(1, len(frames) + 1), head + payload)
    return b"".join(frames)


_FRAMES: tuple[Mutation, ...] = (
    _frame_moved,
    _frame_dropped,
    _frame_repeated,
    _frame_edited,
    _frame_edited,
    _frame_added,
)
_MUTATIONS: tuple[Mutation, ...] = (*BYTES, *_FRAMES, *_FRAMES)
