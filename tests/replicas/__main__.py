"""All of it, one after another, or the parts of these names: `cd tests && python -m replicas [NAME …]`."""

import asyncio
import sys
import time

from replicas import bursts, endings, left_behind, outages, rolling, scale, slow_store

PARTS = {
    "bursts": bursts.main,
    "endings": endings.main,
    "outages": outages.main,
    "rolling": rolling.main,
    "slow_store": slow_store.main,
    "left_behind": left_behind.main,
    "scale": scale.main,
}


async def main(names: list[str]) -> int:
    """Run the parts, and return the exit status."""
    if unknown := [name for name in names if name not in PARTS]:
        print(f"no part {unknown[0]}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    status = 0
    for name in names or PARTS:
        started_s = time.monotonic()
        print(f"#### {name}", flush=True)
        status |= await PARTS[name]()
        print(f"#### {name} took {time.monotonic() - started_s:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
