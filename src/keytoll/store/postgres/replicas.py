"""What replicas that share a PostgreSQL database tell each other; see `store.replicas`."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from keytoll.core.allowance import Ask, Outcome, grant
from keytoll.core.quota import spent_nano
from keytoll.store.base import Granted, KeyMonth, StoreUnavailable
from keytoll.store.postgres import queries
from keytoll.store.postgres.database import connected, driver_errors
from keytoll.store.replicas import Answer, Behind, Held, Joined, KeyChange, Lapsed, Member, News, Superseded, Word
from keytoll.store.sql import rows
from keytoll.store.sql.transactions import Row, Transaction, Values

_CHANNEL = "keytoll"
_LATER_S = 0.25
"""How much later than the replica the store lets a lease end: for clocks that run at different speeds, and for an answer
that was under way when the replica's own lease ended."""

_NEWS_AT_ONCE = 1000
_DIGEST_BYTES = 32
_LOOK_S = 1.0
_PATIENCE_S = 3.0


async def join(transaction: Transaction, *, replica: str, lease_s: float, held: Held) -> Joined:
    """Join within the open transaction; see `ReplicaStore.join`."""
    ((epoch, seen),) = await transaction.fetch(queries.JOIN, {"replica": replica, "lease_s": lease_s + _LATER_S})
    return Joined(Member(replica, epoch), seen, await _keep(transaction, replica, held))


async def leave(transaction: Transaction, *, member: Member, held: Held) -> None:
    """Leave within the open transaction; see `ReplicaStore.leave`."""
    if await transaction.fetch(queries.LEAVE, member._asdict()):
        await _keep(transaction, member.replica, held)


async def ask(transaction: Transaction, *, member: Member, of: KeyMonth, ask: Ask) -> Answer | None:
    """Grant something within the open transaction; see `ReplicaStore.ask`."""
    await transaction.fetch(queries.GRANTS_ALONE, {"key_id": of.key_id})
    asked = {"id": of.key_id, "month": of.month} | member._asdict()
    ((*columns, own_nano, others_nano, replicas, is_member),) = await transaction.fetch(queries.GRANTS_OF_KEY, asked)
    if not is_member:
        raise Lapsed(member.replica)
    if columns[0] is None:
        return None
    stored = rows.stored_key(columns)
    quota = stored.key.quota
    if quota.limit_nano is None:
        return None
    found = grant(
        ask,
        limit_nano=quota.limit_nano,
        spent_nano=spent_nano(quota, stored.totals, of.month),
        own_nano=own_nano or 0,
        others_nano=others_nano or 0,
        replicas=max(1, replicas),
    )
    added = of._asdict() | {"replica": member.replica, "more_nano": found.more_nano}
    ((granted_nano, version),) = await transaction.fetch(queries.ADD_GRANT, added)
    # What the replica gave back since its grant was read is no longer its own, and somebody else may have it next.
    whole = found.whole and granted_nano == (own_nano or 0) + found.more_nano
    if found.outcome is Outcome.HELD:
        await tell(transaction, Word.RECALL, [of.key_id])
    return Answer(found.outcome, Granted(granted_nano, version), whole, stored.totals, stored.revision)


async def take(
    transaction: Transaction, *, replica: str, amounts: Iterable[tuple[KeyMonth, int]]
) -> dict[KeyMonth, Granted]:
    """Take amounts from grants within the open transaction, and return what these are then."""
    given = sorted(amounts)
    if not given:
        return {}
    return _grants(await transaction.fetch(queries.TAKE_FROM_GRANTS, {"replica": replica} | _columns(given)))


async def give_back(
    transaction: Transaction, *, member: Member, unused: Sequence[tuple[KeyMonth, int]], tell_all: bool
) -> dict[KeyMonth, Granted]:
    """Give amounts back within the open transaction; see `ReplicaStore.give_back`."""
    if not await transaction.fetch(queries.STILL_MEMBER, member._asdict()):
        raise Lapsed(member.replica)
    left = await take(transaction, replica=member.replica, amounts=unused)
    if tell_all:
        await tell(transaction, Word.RETURNED, [of.key_id for of, _ in unused])
    return left


async def tell(transaction: Transaction, word: Word, key_ids: Iterable[str]) -> None:
    """Tell all replicas something of keys, once the open transaction is committed."""
    await transaction.fetch(queries.TELL, {"words": [f"{word.value} {key_id}" for key_id in sorted(set(key_ids))]})


async def sweep(transaction: Transaction, *, longest_s: float) -> int:
    """Sweep within the open transaction; see `ReplicaStore.sweep`."""
    ((dead,),) = await transaction.fetch(queries.SWEEP_REPLICAS, {"longest_s": longest_s})
    await transaction.fetch(queries.SWEEP_GRANTS)
    await transaction.fetch(queries.SWEEP_CHANGES)
    return int(dead)


def renewal(member: Member, *, seen: int, lease_s: float) -> Values:
    """Return the values that RENEW takes."""
    return member._asdict() | {"seen": seen, "lease_s": lease_s + _LATER_S, "limit": _NEWS_AT_ONCE}


def news(member: Member, row: Row) -> News:
    """Return what RENEW tells. Raises Lapsed and Superseded."""
    renewed, epoch, replicas, seq, key_ids, digests = row
    if epoch is not None and epoch > member.epoch:
        raise Superseded(f"another Keytoll has started as the replica {member.replica}: stopping")
    if not renewed:
        raise Lapsed(member.replica)
    return News(seq, list(map(_change, key_ids or (), digests or ())), replicas)


def behind(found: Iterable[Row]) -> Sequence[Behind]:
    """Return what BEHIND tells."""
    return [Behind(*row) for row in found]


async def listen(url: str, hear: Callable[[Word, str], None]) -> NoReturn:
    """Hear what replicas are told, on a connection of its own; see `ReplicaStore.listen`."""

    def heard(*message: Any) -> None:
        word, _, key_id = str(message[-1]).partition(" ")
        if word in _WORDS:  # another version may say more
            hear(Word(word), key_id)

    gone = asyncio.Event()
    async with connected(url, name="keytoll, listening") as connection:
        connection.add_termination_listener(lambda _: gone.set())
        with driver_errors():
            await connection.add_listener(_CHANNEL, heard)
            hear(Word.CHANGE, "")  # of which nothing was heard before
            while not gone.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(gone.wait(), _LOOK_S)
                await connection.execute("SELECT 1", timeout=_PATIENCE_S)
    raise StoreUnavailable("PostgreSQL: the connection that changes are heard on is lost")


def _change(key_id: str, digests: bytes) -> KeyChange:
    each = {digests[at : at + _DIGEST_BYTES] for at in range(0, len(digests), _DIGEST_BYTES)}
    return KeyChange(key_id, tuple(sorted(each)))


async def _keep(transaction: Transaction, replica: str, held: Held) -> dict[KeyMonth, Granted]:
    return _grants(await transaction.fetch(queries.KEEP_GRANTS, {"replica": replica} | _columns(held)))


def _grants(found: Iterable[Row]) -> dict[KeyMonth, Granted]:
    return {KeyMonth(key_id, month): Granted(granted_nano, version) for key_id, month, granted_nano, version in found}


def _columns(amounts: Held) -> dict[str, list[Any]]:
    """Return the amounts as a statement takes them, an array for each column."""
    return {
        "key_ids": [of.key_id for of, _ in amounts],
        "months": [of.month for of, _ in amounts],
        "nanos": [nano for _, nano in amounts],
    }


_WORDS = frozenset(word.value for word in Word)
