"""A full disk in the journal's folder, a small tmpfs, under load; needs the right to mount one.

With a floor: 503 from the floor on, alarmed, well again once there is room, and nothing lost. Without: Envoy's writes
fail, which is noticed within a second; well again once there is room, and all that was lost is listed as unsettled.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from keytoll.envoy.guard import free_bytes
from load.asks import mixed
from load.books import Audit, audit
from load.calls import Load, calling
from load.gateway import CountedGateway, counted_gateway

SEED = 50
MIB = 1024 * 1024
_SIZE_MIB = 16


@dataclass(slots=True)
class Filled:
    """The audit of the load, and what the alarms told while the disk was full."""

    audit: Audit
    sent: int
    refused: int
    blocked: float
    write_failures: float

    def __str__(self) -> str:
        """All of it."""
        return (
            f"{self.sent} requests, {self.refused} of them got 503 while the disk was full; then"
            f" keytoll_admission_blocked was {self.blocked:.0f}, keytoll_envoy_log_write_failures_total"
            f" {self.write_failures:.0f}\n{self.audit}"
        )


async def fill(
    gateway: CountedGateway,
    full: AbstractContextManager[None],
    *,
    lossy: bool,
    per_second: float = 100,
    answers: int = 100,
    first: int = 10_000,
) -> Filled:
    """Have the journal's disk `full` under load until callers are refused, then make room again.

    `lossy`: Envoy comes to writes that fail, and what it answered meanwhile may be lost.
    """
    key = await gateway.new_key()
    async with calling(gateway.url, secret=key["secret"]) as callers:
        load = Load(callers, mixed(Random(SEED), first=first), per_second=per_second)
        async with load.running():
            await load.more(answers)
            with full:
                await load.more(answers // 2, status=503)
                blocked = await gateway.metric("keytoll_admission_blocked")
                failures = await gateway.metric("keytoll_envoy_log_write_failures_total")
            await load.more(answers)
    if lossy:
        await gateway.restart_envoy()
    await gateway.until_told(key, load.outcomes)
    found = audit(await gateway.evidence(key, load.outcomes), lossy=lossy)
    if not blocked or bool(failures) != lossy:
        found.violations.append(f"the alarms were {blocked} and {failures}")
    return Filled(found, len(load.outcomes), found.statuses[503], blocked, failures)


@contextmanager
def filled(folder: Path, *, to_the_brim: bool) -> Iterator[None]:
    """Leave next to nothing of a folder's disk while the context lasts, or nothing at all."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes(folder) - MIB)
        if to_the_brim:
            file.seek(0, os.SEEK_END)
            with contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small tmpfs there. Raises CalledProcessError without the right to."""
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def main() -> int:
    """Run both, and return the exit status."""
    violations = 0
    for name, floor_bytes in (("with a floor", 4 * MIB), ("without a floor", 0)):
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as disks:
            environment = {"KEYTOLL_DISK_FLOOR_BYTES": str(floor_bytes)}
            async with counted_gateway(
                Path(folder),
                environment=environment,
                prepare=lambda run_dir, disks=disks: disks.enter_context(small_disk(run_dir / "journal")),  # type: ignore[misc]
            ) as gateway:
                full = filled(gateway.run_dir / "journal", to_the_brim=not floor_bytes)
                done = await fill(gateway, full, lossy=not floor_bytes)
        print(f"== {name}\n{done}")
        violations += len(done.audit.violations)
    return bool(violations)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
