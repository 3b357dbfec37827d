"""The pod on PostgreSQL: what it leaves when it goes, and what the operator's guide has people do with its database."""

import asyncio
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from postgres_server import PostgresServer, postgres_server

from deploy.pod import MODEL, PROJECT, Pod, backend, manifests
from deploy.queries import operators_guide

CERTIFICATES = PROJECT / "tests/envoy/tls"
QUICK = {"KEYTOLL_DRAIN_NOTICE_S": "0"}


async def ask(pod: Pod, secret: str, times: int) -> None:
    """Make requests."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    async with httpx.AsyncClient(base_url=pod.url, headers={"authorization": f"Bearer {secret}"}) as client:
        for _ in range(times):
            (await client.post("/v1/chat/completions", json=body)).raise_for_status()


async def rows_of(url: str, statement: str) -> list[Any]:
    """Run a statement past Keytoll."""
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


def block(heading: str, number: int, language: str) -> str:
    """Return a block of code below a heading of the operator's guide."""
    _, _, section = operators_guide().partition(f"\n### {heading}\n")
    found = re.findall(rf"```{language}\n(.*?)```", section.partition("\n### ")[0], re.DOTALL)
    return str(found[number])


def last_event(pod: Pod) -> Mapping[str, Any]:
    """Return the last line that Keytoll logged."""
    line: Mapping[str, Any] = json.loads((pod.root / "keytoll.log").read_text().splitlines()[-1])
    return line


async def test_a_pod_that_was_killed_settles_its_journal_when_it_comes_back_with_its_claim(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = await postgres.new_database(empty=True)
    async with backend() as port:
        pod = Pod(tmp_path, port, QUICK | {"KEYTOLL_STORE": url})
        async with pod.running() as running:
            key = await pod.new_key()
            await ask(pod, key["secret"], 1)
            await running.keytoll.kill()
            await running.envoy.stop()
        async with pod.running():
            await pod.charged(1)
            await ask(pod, key["secret"], 1)
            assert len(await pod.charged(2)) == 2


async def test_what_was_charged_in_sqlite_is_moved_and_the_same_claim_goes_on(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """As `deploy/migrate.yaml` does it."""
    url = await postgres.new_database(empty=True)
    (container,) = manifests("migrate.yaml")[0]["spec"]["containers"]
    arguments = [str(each).replace("/var/", f"{tmp_path}/var/") for each in container["args"]]
    async with backend() as port:
        pod = Pod(tmp_path, port, QUICK)
        async with pod.running() as running:
            key = await pod.new_key()
            await ask(pod, key["secret"], 3)
            await pod.charged(3)
            assert await running.end() == (0, "")
        pod = Pod(tmp_path, port, QUICK | {"KEYTOLL_STORE": url})
        code, out = await pod.keytoll(*arguments)
        assert (code, out.splitlines()[-1][:16]) == (0, "The charges come"), out
        async with pod.running():
            await ask(pod, key["secret"], 2)
            charges = await pod.charged(5)
    assert len({row["decision_id"] for row in charges}) == len(charges) == 5


async def test_the_guides_role_has_all_rights_that_keytoll_needs_and_finance_sees_no_digest(
    server: PostgresServer, tmp_path: Path
) -> None:
    url = await made_by_the_guide(server)
    async with backend() as port:
        pod = Pod(tmp_path, port, QUICK | {"KEYTOLL_STORE": url})
        async with pod.running():
            key = await pod.new_key()
            await ask(pod, key["secret"], 1)
            await pod.charged(1)
    await rows_of(url, named(block("The database", 2, "sql")))
    finance = server.url("gateway").replace("keytoll", "finance", 1).replace(server.password, "another%20one")
    assert len(await rows_of(finance, "SELECT owner, month, amount_nano FROM charges")) == 1
    for forbidden in ("SELECT digest FROM keys", "SELECT digest FROM access_tokens", "DELETE FROM totals"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await rows_of(finance, forbidden)


async def test_a_dump_is_restored_as_the_guide_says_and_the_journal_adds_what_came_later(
    server: PostgresServer, tmp_path: Path
) -> None:
    url = await made_by_the_guide(server)
    dump, make, restore = (
        *block("Backup of a PostgreSQL store", 0, "sh").splitlines(),
        *block("Backup of a PostgreSQL store", 2, "sh").splitlines(),
    )
    async with backend() as port:
        pod = Pod(tmp_path, port, QUICK | {"KEYTOLL_STORE": url})
        async with pod.running() as running:
            key = await pod.new_key()
            await ask(pod, key["secret"], 3)
            await pod.charged(3)
            await run_tool(server, dump, tmp_path, user="gateway", password="long and random")
            await ask(pod, key["secret"], 2)
            before = await pod.charged(5)
            assert await running.end() == (0, "")
        for command in (make, restore):
            await run_tool(server, command, tmp_path, user="keytoll", password=server.password)
        pod = Pod(tmp_path, port, QUICK | {"KEYTOLL_STORE": url.removesuffix("gateway") + "restored"})
        async with pod.running():
            after = await pod.charged(5)
            await ask(pod, key["secret"], 1)
    assert {row["decision_id"]: row["amount"] for row in after} == {row["decision_id"]: row["amount"] for row in before}


async def test_the_guides_url_speaks_only_to_a_server_that_the_authority_vouches_for(
    server: PostgresServer, tmp_path: Path
) -> None:
    await made_by_the_guide(server)
    pair = server.keep("server.pem", (CERTIFICATES / "server.pem").read_text())
    for setting in (f"ssl_cert_file = '{pair}'", f"ssl_key_file = '{pair}'", "ssl = on"):
        await server.administer(f"ALTER SYSTEM SET {setting}")
    await server.administer("SELECT pg_reload_conf()")
    (written,) = re.findall(r"printf %s '(.*)'", block("The database", 0, "sh"))
    url = (
        named(written)
        .replace("PASSWORD", "long%20and%20random")
        .replace("postgres.example:5432", f"localhost:{server.port}")
    )
    authority = tmp_path / "etc/keytoll/store/ca.crt"
    authority.parent.mkdir(parents=True)
    async with backend() as port:
        pod = Pod(tmp_path, port, QUICK | {"KEYTOLL_STORE": url.replace("/etc/", f"{tmp_path}/etc/")})
        authority.write_text((CERTIFICATES / "ca.pem").read_text())
        async with pod.running():
            await pod.new_key()
        authority.write_text((PROJECT / "tests/deploy/tls/first.crt").read_text())
        code, out = await pod.keytoll("serve")
        assert (code, "certificate verify failed" in out, "long" in out) == (1, True, False), out


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server to change at will."""
    with postgres_server() as server:
        yield server


async def made_by_the_guide(server: PostgresServer) -> str:
    """Do what the guide says to make the database, and return its URL."""
    for number in range(2):
        for statement in named(block("The database", number, "sql")).splitlines():
            await server.administer(statement)
    return server.url("gateway").replace("keytoll", "gateway", 1).replace(server.password, "long%20and%20random")


def named(text: str) -> str:
    """Return what the guide says with another role and database, since the server's superuser has that name."""
    return re.sub(r"(?<!/etc/)\bkeytoll\b(?!\.)", "gateway", text)


async def run_tool(server: PostgresServer, command: str, cwd: Path, *, user: str, password: str) -> None:
    """Run one of PostgreSQL's programs as the guide does."""
    name, *arguments = shlex.split(named(command))
    places = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": user, "PGPASSWORD": password}
    process = await asyncio.create_subprocess_exec(
        *(str(server.tool(name)), *arguments),
        env=os.environ | places,
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (0, "")
