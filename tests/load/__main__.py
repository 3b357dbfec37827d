"""All of it, one after another: `cd tests && python -m load`, a matter of minutes."""

import asyncio
import sys

from load import burst, envoy_ends, full_disk, kills, rotation


async def main() -> int:
    """Run all, and return the exit status."""
    status = 0
    for run in (burst.main, kills.main, envoy_ends.main, rotation.main, full_disk.main):
        print(f"#### {run.__module__}", flush=True)
        status |= await run()
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
