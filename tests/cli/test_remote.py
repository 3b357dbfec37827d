"""The command line away from where Keytoll runs: over HTTP, as a person with an access token."""

import asyncio
import os
import pty
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran, run, run_plain, run_process
from serving import Operated

from keytoll.cli.signin import SignIn, config_file, read_signin
from keytoll.core.secrets import KEY_PREFIX, TOKEN_PREFIX, mint
from keytoll.http.server import serve_tcp

TLS = Path(__file__).parents[1] / "envoy" / "tls"
PATIENCE_S = 20.0
UNKNOWN = mint(TOKEN_PREFIX, bytes(32))


@pytest.fixture
async def server(keytoll: Operated) -> AsyncIterator[str]:
    """The address where people reach the API."""
    async with serve_tcp(keytoll.people, host="127.0.0.1", port=0) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def tokens(keytoll: Operated) -> dict[str, str]:
    """The access tokens of alice, who is admin of acme, bob, its member, and carol, a stranger to it."""
    found = {}
    for name in ("alice", "bob", "carol"):
        await run(keytoll.run_dir, "users", "create", name)
        found[name] = (await run(keytoll.run_dir, "access-token", "reset", name, "--json")).json["secret"]
    await run(keytoll.run_dir, "organizations", "create", "acme", "--admin", "alice")
    await run(keytoll.run_dir, "organizations", "members", "set", "acme", "bob")
    return found


@pytest.fixture
def as_(server: str, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command as a person."""

    async def run_as(name: str, *arguments: str) -> Ran:
        monkeypatch.setenv("KEYTOLL_SERVER", server)
        monkeypatch.setenv("KEYTOLL_ACCESS_TOKEN", tokens[name])
        return await run_plain(*arguments)

    return run_as


def kept() -> SignIn | None:
    return read_signin(config_file(os.environ))


async def sign_in(server: str, token: str) -> Ran:
    return await run_plain("login", "--server", server, answers=f"{token}\n")


async def test_who_signs_in_is_that_person_until_signing_out(server: str, tokens: dict[str, str]) -> None:
    ran = await sign_in(f"{server}/", tokens["alice"])
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Signed in at {server} as users/alice; kept in ")
    assert tokens["alice"] not in ran.out
    assert kept() == SignIn(server, tokens["alice"])
    out = (await run_plain("me")).out
    assert all(told in out for told in ("users/alice", server, f"gw-at-****{tokens['alice'][-4:]}", "acme (admin)"))
    me = (await run_plain("me", "--json")).json
    assert (me["owner"], me["at"]) == ("users/alice", server)
    assert (await run_plain("logout")).out == "Signed out.\n"
    assert (await run_plain("logout")).out == "You were not signed in.\n"
    away = await run_plain("me", "--server", server)
    assert (away.code, "you are not signed in" in away.err) == (1, True)


async def test_a_token_that_is_not_taken_is_not_kept(server: str, tokens: dict[str, str]) -> None:
    for given, told in (
        (UNKNOWN, "does not exist, or was reset or revoked"),
        (mint(KEY_PREFIX, bytes(32)), "is an API key"),
        ("", "no access token on standard input"),
    ):
        ran = await sign_in(server, given)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert told in ran.err
        assert not given or given not in ran.err
        assert kept() is None
    nowhere = await run_plain("login")
    assert (nowhere.code, "--server" in nowhere.err) == (2, True)


async def test_a_token_that_is_typed_in_is_not_shown(server: str, tokens: dict[str, str]) -> None:
    """In a real terminal, which shows whatever it isn't told to hide."""
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keytoll.cli", "login", "--server", server),
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(end)
    asyncio.get_running_loop().call_later(PATIENCE_S, _kill, process)
    seen = await asyncio.to_thread(_type_when_asked, terminal, tokens["alice"])
    assert await process.wait() == 0, seen
    assert "Signed in" in seen
    assert tokens["alice"] not in seen
    assert kept() == SignIn(server, tokens["alice"])


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def _own_terminal() -> None:
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # the first terminal that a session opens is its own


def _type_when_asked(terminal: int, text: str) -> str:
    seen, typed = b"", False
    try:
        while more := os.read(terminal, 4096):
            seen += more
            if seen.endswith(b": ") and not typed:  # the space comes once the terminal hides what is typed
                typed = os.write(terminal, text.encode() + b"\n") > 0
    except OSError:  # so a terminal ends whose other side is closed
        pass
    finally:
        os.close(terminal)
    return seen.decode()


async def test_a_person_makes_keys_for_oneself_and_where_one_is_admin(as_: Any, keytoll: Operated) -> None:
    own = (await as_("alice", "keys", "create", "--name", "laptop", "--monthly", "5", "--json")).json
    acmes = (await as_("alice", "keys", "create", "organizations/acme", "--name", "web", "--json")).json
    assert (own["owner"], acmes["owner"]) == ("users/alice", "organizations/acme")
    assert [key["id"] for key in (await as_("alice", "keys", "list", "--json")).json] == [own["id"]]
    assert [key["id"] for key in (await as_("bob", "keys", "list", "organizations/acme", "--json")).json] == [
        acmes["id"]
    ]
    assert (await as_("alice", "keys", "edit", acmes["id"], "--total", "7", "--json")).json["quota"]["limit"] == "7.00"
    rotated = (await as_("alice", "keys", "rotate", own["id"], "--json")).json
    assert await keytoll.checked(own["secret"]) is None
    assert await keytoll.checked(rotated["secret"])
    assert (await as_("alice", "keys", "delete", own["id"], "--yes")).code == 0
    assert await keytoll.checked(rotated["secret"]) is None


async def test_what_a_person_may_not_do_is_one_line(as_: Any, keytoll: Operated) -> None:
    acmes = (await as_("alice", "keys", "create", "organizations/acme", "--name", "web", "--json")).json
    for name, arguments in (
        ("bob", ("keys", "delete", acmes["id"], "--yes")),
        ("bob", ("keys", "create", "organizations/acme", "--name", "x")),
        ("bob", ("organizations", "members", "set", "acme", "carol")),
        ("carol", ("keys", "show", acmes["id"])),
        ("carol", ("usage", "--owner", "organizations/acme")),
        ("carol", ("keys", "list", "users/alice")),
        ("carol", ("users", "list")),
        ("carol", ("unsettled", "list")),
        ("alice", ("organizations", "delete", "acme", "--yes")),
        ("alice", ("organizations", "members", "remove", "acme", "alice")),
    ):
        ran = await as_(name, *arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1), arguments
        assert ran.err.startswith("keytoll: ")
    assert await keytoll.checked(acmes["secret"])


async def test_a_person_sees_what_oneself_and_ones_organizations_spend(as_: Any, keytoll: Operated) -> None:
    own = (await as_("alice", "keys", "create", "--name", "own", "--json")).json
    acmes = (await as_("alice", "keys", "create", "organizations/acme", "--name", "acmes", "--json")).json
    mine = await keytoll.charge(own, output=20)
    ours = [await keytoll.charge(acmes, seconds=-number) for number in (0, 1)]
    assert [charge["id"] for charge in (await as_("alice", "charges", "list", "--json")).json] == [mine.id]
    exported = (await as_("bob", "charges", "export", "--owner", "organizations/acme")).out
    assert [line.split(",")[0] for line in exported.splitlines()[1:]] == [charge.id for charge in ours]
    assert (await as_("alice", "usage", "--json")).json["total"]["amount"] == "0.00425"
    assert (await as_("bob", "usage", "--owner", "organizations/acme", "--json")).json["total"]["requests"] == 2
    assert (await as_("bob", "usage", "--json")).json["total"]["requests"] == 0
    assert mine.id in (await as_("alice", "charges", "explain", mine.id)).out
    events = (await as_("alice", "audit", "list", "--json")).json
    assert {event["owner"] for event in events} == {"users/alice", "organizations/acme"}


async def test_who_resets_the_own_token_stays_signed_in_with_the_new_one(server: str, tokens: dict[str, str]) -> None:
    await sign_in(server, tokens["alice"])
    ran = await run_plain("access-token", "reset")
    (secret,) = re.findall(r"gw-at-\w{49}", ran.out)
    assert ran.err == "You stay signed in here, with the new one.\n"
    assert kept() == SignIn(server, secret)
    assert (await run_plain("me")).code == 0
    ran = await run_plain("access-token", "revoke", "--yes")
    assert (ran.out, ran.err) == ("Revoked the access token of users/alice.\n", "You are signed out here.\n")
    assert kept() is None


async def test_who_resets_a_token_from_the_environment_is_told(as_: Any, tokens: dict[str, str]) -> None:
    ran = await as_("alice", "access-token", "reset", "--json")
    assert ran.err == "KEYTOLL_ACCESS_TOKEN still holds the one before.\n"
    old = await as_("alice", "me")
    assert (old.code, "was reset or revoked" in old.err, "keytoll login --server" in old.err) == (1, True, True)
    tokens["alice"] = ran.json["secret"]
    assert (await as_("alice", "me")).code == 0


async def test_a_server_that_is_away_or_something_else_is_one_line(
    server: str, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    monkeypatch.setenv("KEYTOLL_ACCESS_TOKEN", tokens["alice"])
    listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    away = f"http://127.0.0.1:{port}"
    async with listener:
        ran = await run_plain("me", "--server", away)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith(f"keytoll: Keytoll at {away} did not answer: ")
    ran = await run_plain("me", "--server", f"{server}/elsewhere")
    assert (ran.code, ran.err.count("\n")) == (1, 1)


async def test_no_proxy_gets_a_token_in_the_clear(server: str, tokens: dict[str, str]) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9")
    env = os.environ | proxies | {"KEYTOLL_SERVER": server, "KEYTOLL_ACCESS_TOKEN": tokens["alice"]}
    ran = await run_process("me", "--json", env=env, cwd=Path.cwd())
    assert ran.json["owner"] == "users/alice"


@asynccontextmanager
async def tls_before(server: str) -> AsyncIterator[int]:
    """Take connections by TLS, as what stands before Keytoll does; gives the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "server.pem")

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_connection("127.0.0.1", int(server.rpartition(":")[2]))
        await asyncio.gather(_copy(reader, to_behind), _copy(behind, writer))

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context) as listener:
        yield listener.sockets[0].getsockname()[1]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_tls_is_verified_by_what_the_system_or_ssl_cert_file_trusts(
    server: str, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYTOLL_ACCESS_TOKEN", tokens["alice"])
    async with tls_before(server) as port:
        untrusted = await run_plain("me", "--server", f"https://localhost:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "ca.pem"))
        trusted = await run_plain("me", "--server", f"https://localhost:{port}", "--json")
        another = await run_plain("me", "--server", f"https://127.0.0.1:{port}")
    assert trusted.json["owner"] == "users/alice"
    for ran in (untrusted, another):
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert "certificate verify failed" in ran.err
