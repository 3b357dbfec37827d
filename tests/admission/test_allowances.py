"""What a replica may conclude from what the store told it of a grant, while something is on its way back."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from admission.replicas import new_key, replica_on
from postgres_server import PostgresServer

from keytoll.core.allowance import Ask
from keytoll.store.base import Granted, KeyMonth, StoreUnavailable
from keytoll.store.replicas import Answer, Member


async def test_what_is_on_its_way_back_is_no_longer_the_whole_of_what_is_left(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has it back before this replica hears of that, and another gets it: two would run beyond the limit."""
    url = await postgres.emptied_database()
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(replica_on(url, name, tmp_path / name)) for name in ("a", "b")]
        key, secret = await new_key(one, 100)
        assert await one.ask(secret, 95) == "allowed"
        await one.settle()
        assert await one.ask(secret, 10) == "allowed"  # alone
        await one.settle(2)

        give_back, go = one.store.give_back, asyncio.Event()

        async def later(
            member: Member, unused: Sequence[tuple[KeyMonth, int]], *, tell: bool
        ) -> dict[KeyMonth, Granted]:
            await go.wait()
            return await give_back(member, unused, tell=tell)

        monkeypatch.setattr(one.store, "give_back", later)
        one.allowances.recalled(key.id)
        assert await one.ask(secret, 10) == "rate_limit_exceeded"
        go.set()
        while one.allowances.of(key.id, "2026-09").granted_nano or await other.ask(secret, 10) != "allowed":
            await asyncio.sleep(0)
        assert await one.ask(secret, 10) == "rate_limit_exceeded"
        assert 97 + await one.settle() + await other.settle() <= 100 + 10


async def test_who_was_granted_the_whole_without_hearing_of_it_asks_again_and_has_it(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else could use it, so a key's last request must not wait for what is in doubt to be found out."""
    url = await postgres.emptied_database()
    async with replica_on(url, "a", tmp_path / "a") as one:
        _, secret = await new_key(one, 5)
        ask = one.store.ask

        async def lost(member: Member, of: KeyMonth, wanted: Ask) -> Answer | None:
            await ask(member, of, wanted)
            raise StoreUnavailable("the connection is lost")

        monkeypatch.setattr(one.store, "ask", lost)
        assert await one.ask(secret, 10) == "service_unavailable"
        monkeypatch.setattr(one.store, "ask", ask)
        assert await one.ask(secret, 10) == "allowed"
