"""The servers: who may connect, where they listen, and how they stop."""

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path

import httpx
import pytest
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from keytoll.http import server
from keytoll.http.listeners import peer_uid
from keytoll.http.server import serve_tcp, serve_unix
from keytoll.settings import CannotStart
from keytoll.sockets import short_path


async def hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


HELLO = Starlette(routes=[Route("/", hello)])


async def asked(path: Path) -> str:
    with short_path(path) as address:
        transport = httpx.AsyncHTTPTransport(uds=address)
        async with httpx.AsyncClient(transport=transport, base_url="http://keytoll") as client:
            return (await client.get("/")).text


async def test_the_socket_is_its_users_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "operator.sock"
    async with serve_unix(HELLO, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await asked(path) == "hello"
    assert not path.exists()


def test_it_serves_on_uvloop_as_well(tmp_path: Path) -> None:
    async def once() -> str:
        async with serve_unix(HELLO, tmp_path / "operator.sock"):
            return await asked(tmp_path / "operator.sock")

    assert uvloop.run(once()) == "hello"


async def test_a_path_longer_than_a_socket_address_is_served(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    async with serve_unix(HELLO, folder / "operator.sock"):
        assert await asked(folder / "operator.sock") == "hello"
    assert list(folder.iterdir()) == []


async def test_a_socket_left_by_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "operator.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serve_unix(HELLO, path):
        assert await asked(path) == "hello"


async def test_a_socket_in_use_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "operator.sock"
    async with serve_unix(HELLO, path):
        with pytest.raises(CannotStart, match=r"operator\.sock is in use"):
            async with serve_unix(HELLO, path):
                pass
        assert await asked(path) == "hello"


async def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "operator.sock"
    path.write_text("precious")
    with pytest.raises(CannotStart, match="not a socket"):
        async with serve_unix(HELLO, path):
            pass
    assert path.read_text() == "precious"


async def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="No such file"):
        async with serve_unix(HELLO, tmp_path / "nowhere" / "operator.sock"):
            pass


async def test_a_stop_leaves_a_successors_socket(tmp_path: Path) -> None:
    path = tmp_path / "operator.sock"
    async with serve_unix(HELLO, path):
        path.rename(tmp_path / "moved")
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_peers_user_is_what_the_kernel_says() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_uid(ours) == os.geteuid()


async def test_another_user_is_refused_whatever_the_sockets_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells who connected; a socket that was opened to all by mistake still serves its own user only."""
    path = tmp_path / "operator.sock"
    monkeypatch.setattr(server, "peer_uid", lambda _: 12_345)
    async with serve_unix(HELLO, path):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await asked(path)
        monkeypatch.undo()
        assert await asked(path) == "hello"


async def until_closed(path: Path, then: asyncio.Event) -> None:
    """Set the event once nobody listens at the socket any more."""
    async with asyncio.timeout(5):
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except OSError:
                    return then.set()
            await asyncio.sleep(0.01)


async def test_a_stop_finishes_the_request_that_runs(tmp_path: Path) -> None:
    asked_for, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> PlainTextResponse:
        asked_for.set()
        await go_on.wait()
        return PlainTextResponse("done")

    path = tmp_path / "operator.sock"
    async with serve_unix(Starlette(routes=[Route("/", slow)]), path):
        answer = asyncio.create_task(asked(path))
        await asked_for.wait()
        closed = asyncio.create_task(until_closed(path, go_on))
    await closed
    assert await answer == "done"


async def test_signals_stay_with_the_process_that_serves(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with serve_unix(HELLO, tmp_path / "operator.sock"):
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_a_tcp_port_is_served_and_one_in_use_is_told_with_the_setting_that_chose_it() -> None:
    async with serve_tcp(HELLO, host="127.0.0.1", port=0) as port:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "hello"
        with pytest.raises(CannotStart, match=rf"^METRICS_PORT: 127\.0\.0\.1:{port} is in use$"):
            async with serve_tcp(HELLO, host="127.0.0.1", port=port, setting="METRICS_PORT"):
                pass


async def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(CannotStart, match=r"^port: 192\.0\.2\.1:0 can't be used: "):
        async with serve_tcp(HELLO, host="192.0.2.1", port=0):
            pass
