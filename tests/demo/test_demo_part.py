"""A part is ready when it answers, and gone when it was stopped, whatever it does itself."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keytoll.demo.part import Part, PartFailed, Program

STUBBORN = (
    "import pathlib, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "pathlib.Path('up').touch(); print('deaf', flush=True); signal.pause()"
)
CURSED = "print('the reason'); raise SystemExit(7)"


def program(folder: Path, script: str, *, start_timeout_s: float = 20.0, stop_timeout_s: float = 20.0) -> Program:
    return Program(
        name="part",
        command=(sys.executable, "-c", script),
        cwd=folder,
        log=folder / "part.log",
        kept_fd=0,
        ready=ready_in(folder),
        start_timeout_s=start_timeout_s,
        stop_timeout_s=stop_timeout_s,
    )


def ready_in(folder: Path) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return (folder / "up").exists()

    return ready


@asynccontextmanager
async def started(asked: Program) -> AsyncIterator[Part]:
    part = Part(asked)
    try:
        await part.start()
        yield part
    finally:
        await part.kill()


async def test_one_that_ignores_a_polite_stop_is_killed_in_the_end(tmp_path: Path) -> None:
    async with started(program(tmp_path, STUBBORN, stop_timeout_s=0.1)) as part:
        assert part.running
        await part.stop()
        assert not part.running
        with pytest.raises(ProcessLookupError):
            os.kill(part.pid, 0)


async def test_hurry_cuts_the_wait_short(tmp_path: Path) -> None:
    hurry = asyncio.Event()
    async with started(program(tmp_path, STUBBORN)) as part:
        began_s = time.monotonic()
        hurry.set()
        await part.stop(hurry=hurry)
        assert not part.running
        assert time.monotonic() - began_s < 10


async def test_one_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(PartFailed, match=r"(?s)part ended \(exit status 7\); the end of .*part.log:\n  the reason"):
        await Part(program(tmp_path, CURSED)).start()


async def test_the_last_words_of_an_earlier_run_are_not_repeated(tmp_path: Path) -> None:
    part = Part(program(tmp_path, CURSED))
    for _ in range(2):
        with pytest.raises(PartFailed) as failed:
            await part.start()
        assert str(failed.value).count("the reason") == 1


async def test_an_answer_of_somebody_else_does_not_make_it_ready(tmp_path: Path) -> None:
    """Such as of another program on the same port, which is why this one ended."""
    (tmp_path / "up").touch()
    part = Part(program(tmp_path, CURSED))
    await part.launch()
    await part.failure()
    with pytest.raises(PartFailed):
        await part.until_ready()


async def test_one_that_is_never_ready_is_reported(tmp_path: Path) -> None:
    part = Part(program(tmp_path, "import signal; signal.pause()", start_timeout_s=0.2))
    try:
        with pytest.raises(PartFailed, match="is not ready after"):
            await part.start()
    finally:
        await part.kill()


async def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    asked = Program(
        name="part",
        command=("/nowhere/part",),
        cwd=tmp_path,
        log=tmp_path / "part.log",
        kept_fd=0,
        ready=ready_in(tmp_path),
    )
    with pytest.raises(PartFailed, match="can't start /nowhere/part: No such file or directory"):
        await Part(asked).start()
