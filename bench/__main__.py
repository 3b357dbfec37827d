"""`python -m bench [PART]`: run all parts or one, print the table, and write bench/results.json."""

import asyncio
import sys
import time

from bench import part_check, part_gateway, part_growth, part_settlement
from bench.load import note
from bench.results import RESULTS, Row, table, write

PARTS = {
    "check": part_check.run,
    "gateway": part_gateway.run,
    "settlement": part_settlement.run,
    "growth": part_growth.run,
}


async def main(names: list[str]) -> int:
    """Run the parts of these names, all if none is given. Returns the exit status: 0, also if a target is missed."""
    if unknown := [name for name in names if name not in PARTS]:
        print(f"no part {unknown[0]}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    started_s = time.monotonic()
    rows: list[Row] = []
    print(note())
    for name in names or PARTS:
        print(f"{name} …", flush=True)
        rows += await PARTS[name]()
    write(rows)
    print(f"\n{table(rows)}\n\nmedians of rounds; {time.monotonic() - started_s:.0f} s; written to {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
