"""The journal rotated under load, at least 10 times: nothing is lost or doubled, and no segment stays."""

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

from e2e.conftest import until

from keytoll.envoy.segments import journal_files
from keytoll.settings import MIN_SEGMENT_BYTES
from load.asks import mixed
from load.books import Audit, audit
from load.calls import Load, calling
from load.gateway import CountedGateway, counted_gateway

SEED = 40
ENVIRONMENT = {"KEYTOLL_JOURNAL_SEGMENT_BYTES": str(MIN_SEGMENT_BYTES)}


@dataclass(slots=True)
class Rotated:
    """The audit of the load, and the journal's segments: how many were made, and how many are left."""

    audit: Audit
    seconds: float
    segments_made: int
    segments_left: int

    def __str__(self) -> str:
        """All of it."""
        sent = sum(self.audit.statuses.values())
        return (
            f"{sent} requests in {self.seconds:.1f} s: {sent / self.seconds:.0f} a second\n{self.audit}\n"
            f"{self.segments_made} segments were made, {self.segments_left} are left"
        )


async def rotate(
    gateway: CountedGateway, *, times: int, per_second: float, until_removed: bool, first: int = 10_000
) -> Rotated:
    """Send requests until the journal was rotated so often; then perhaps wait until the settled segments are gone."""
    key, folder = await gateway.new_key(), gateway.run_dir / "journal"
    there_before = _made(folder)
    async with calling(gateway.url, secret=key["secret"]) as callers:
        load = Load(callers, mixed(Random(SEED), first=first), per_second=per_second)
        async with load.running():
            await until(lambda: _reached(folder, there_before + times))
    await gateway.until_told(key, load.outcomes)
    made = _made(folder) - there_before
    if until_removed:
        await until(lambda: _none_left(folder))
    found = audit(await gateway.evidence(key, load.outcomes))
    return Rotated(found, load.seconds, made, _left(folder))


def _made(folder: Path) -> int:
    """Tell how many segments there were so far, by the number in the name of the newest."""
    return max(
        (int(file.path.stem.removeprefix("journal-")) for file in journal_files(folder) if file.is_segment), default=0
    )


def _left(folder: Path) -> int:
    return sum(file.is_segment for file in journal_files(folder))


async def _reached(folder: Path, number: int) -> bool:
    return _made(folder) >= number


async def _none_left(folder: Path) -> bool:
    return _left(folder) == 0


async def main() -> int:
    """Run it, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        async with counted_gateway(Path(folder), environment=ENVIRONMENT) as gateway:
            done = await rotate(gateway, times=12, per_second=200, until_removed=True)
    print(done)
    return bool(done.audit.violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
