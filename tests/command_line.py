"""Running the command line against the served API, in a thread of the test's process or in one of its own."""

import asyncio
import io
import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keytoll.cli import main


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        assert self.code == 0, self.err
        return json.loads(self.out)


async def run(run_dir: Path, *arguments: str, answers: str = "") -> Ran:
    """Run a command that takes a run folder; `answers` is typed into it."""
    return await run_plain(*arguments, "--run-dir", str(run_dir), answers=answers)


async def run_plain(*arguments: str, answers: str = "") -> Ran:
    """Run a command in a thread, while the event loop serves it."""
    return await asyncio.to_thread(_run, arguments, answers)


async def run_process(*arguments: str, env: Mapping[str, str], cwd: Path) -> Ran:
    """Run a command in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "keytoll.cli", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        cwd=cwd,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


def _run(arguments: tuple[str, ...], answers: str) -> Ran:
    out, err, stdin = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(answers)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(arguments)
    except SystemExit as ended:
        return Ran(int(ended.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.stdin = stdin
    raise AssertionError("a command must end with an exit code")
