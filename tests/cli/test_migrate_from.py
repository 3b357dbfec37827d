"""`keytoll store migrate-from`, on real databases."""

from pathlib import Path

import pytest
from command_line import run_plain
from postgres_server import PostgresServer
from store.builders import make_charge

from keytoll.store.base import Batch
from keytoll.store.sqlite import SqliteStore


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """An SQLite store with two charges in it."""
    store = await SqliteStore.open(tmp_path / "key toll.db")
    await store.keep_currency("CNY")
    await store.post(Batch([make_charge(1_500_000_000), make_charge(1)]))
    await store.close()
    return tmp_path / "key toll.db"


async def test_it_tells_what_was_moved_and_refuses_to_do_it_twice(
    path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYTOLL_STORE", await postgres.new_database(empty=True))
    address = f"sqlite://{path}".replace(" ", "%20")
    ran = await run_plain("store", "migrate-from", address)
    assert (ran.code, ran.err) == (0, "")
    assert "charges: 2, " in ran.out
    assert "The charges come to ¥1.500000001 on both sides" in ran.out
    again = await run_plain("store", "migrate-from", str(path))
    assert (again.code, again.out) == (1, "")
    assert again.err == "keytoll: the PostgreSQL store is not empty: charges has rows\n"


@pytest.mark.parametrize(
    ("source", "store", "message"),
    [
        ("sqlite:///none/none.db", "postgresql://u:s3cr3t@127.0.0.1:1/d", "there is no /none/none.db"),
        ("mysql://none", "postgresql://u:s3cr3t@127.0.0.1:1/d", "must be like sqlite:///"),
        ("none.db", "mysql://u:s3cr3t@none", "must be postgresql://"),
        ("none.db", "other.db", "must be postgresql://"),
    ],
)
async def test_what_can_not_be_moved_is_told(
    source: str, store: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYTOLL_STORE", store)
    ran = await run_plain("store", "migrate-from", source)
    assert ran.code != 0
    assert message in ran.err
    assert "s3cr3t" not in ran.out + ran.err


async def test_a_server_that_is_away_is_told_without_its_password(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYTOLL_STORE", "postgresql://u:s3cr3t@127.0.0.1:1/d")
    ran = await run_plain("store", "migrate-from", str(path))
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "can't be reached" in ran.err
    assert "s3cr3t" not in ran.err
