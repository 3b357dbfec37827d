"""Posts batches of charges for some seconds, as fast as it goes: `python -m replicas.writer URL BATCH KEYS SECONDS`.

Says `ready` once it has made them, begins at a line on its input, and then tells how many charges it has posted in how
many seconds.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from store.builders import NOW_US, PRICES, make_entry

from keytoll.core.ids import uuid7
from keytoll.core.ledger import Charge, settle
from keytoll.store.base import Batch
from keytoll.store.postgres import PostgresStore

_PREPARED = 10_000


async def main(url: str, batch: int, keys: int, seconds: float) -> None:
    store = await PostgresStore.open(url)
    await store.post(Batch(_charges(1, keys)))
    prepared = _charges(_PREPARED, keys)
    print("ready", flush=True)
    sys.stdin.readline()
    posted, started_s = 0, time.monotonic()
    for start in range(0, _PREPARED - batch + 1, batch):
        await store.post(Batch(prepared[start : start + batch]))
        posted += batch
        if time.monotonic() - started_s > seconds:
            break
    print(posted, time.monotonic() - started_s, flush=True)
    await store.close()


def _charges(number: int, keys: int) -> Sequence[Charge]:
    return [_charge(each % keys) for each in range(number)]


def _charge(key: int) -> Charge:
    entry = make_entry(key_id=f"key_{key}", owner=f"users/u{key % 20}")
    own = replace(entry, decision_id=uuid7(NOW_US, os.urandom(10)))  # other writers have others
    return settle(own, PRICES, day="2026-09-21", settled_at_us=NOW_US)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
