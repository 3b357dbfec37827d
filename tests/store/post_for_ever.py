"""Posts batches of 50 charges to the SQLite file given, telling the number of each once it is posted, until killed."""

import asyncio
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from store.builders import make_charge

from keytoll.store.base import Batch, Position
from keytoll.store.sqlite import SqliteStore


async def main(path: Path) -> None:
    store = await SqliteStore.open(path)
    for number in itertools.count(1):
        await store.post(Batch([make_charge() for _ in range(50)], positions=[Position("journal", number)]))
        print(number, flush=True)


asyncio.run(main(Path(sys.argv[1])))
