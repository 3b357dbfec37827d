"""A part of the stack: one child process with its log, started until it is ready, and stopped within a bounded time."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LEASH = Path(__file__).with_name("leash.py")
_POLL_S = 0.05


class PartFailed(Exception):
    """A part ended by itself or never became ready. The message is one line, and the end of its log below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a part runs. `ready` is asked again and again until it is true; it gets `start_timeout_s` for that.

    `stop_timeout_s` is what the program gets between SIGTERM and SIGKILL. Output goes to `log`.
    `kept_fd` stays open in the process.
    """

    name: str
    command: Sequence[str]
    cwd: Path
    log: Path
    kept_fd: int
    ready: Callable[[], Awaitable[bool]]
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = 30.0
    stop_timeout_s: float = 5.0


class Part:
    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.program.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, and return once it is ready. Raises PartFailed."""
        await self.launch()
        await self.until_ready()

    async def launch(self) -> None:
        """Start it."""
        if self.running:
            raise RuntimeError(f"{self.program.name} is running")
        with self.program.log.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own: a Ctrl-C in the terminal reaches only the launcher, which stops the parts in order.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *self.program.command),
                cwd=self.program.cwd,
                env=os.environ | self.program.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self.program.kept_fd,),
            )

    async def until_ready(self) -> None:
        """Return once it is ready. Raises PartFailed."""
        try:
            async with asyncio.timeout(self.program.start_timeout_s):
                await self._asked_until_ready()
        except TimeoutError:
            waited = f"is not ready after {self.program.start_timeout_s:.0f} s"
            raise PartFailed(self._with_log(waited)) from None

    async def stop(self, *, hurry: asyncio.Event | None = None) -> None:
        """End it by SIGTERM; by SIGKILL if that takes too long, or as soon as `hurry` is set."""
        self._signal(signal.SIGTERM)
        timer = asyncio.create_task(asyncio.wait_for((hurry or asyncio.Event()).wait(), self.program.stop_timeout_s))
        ended = asyncio.create_task(self._ended())
        try:
            await asyncio.wait({timer, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)
            self._signal(signal.SIGKILL)
            await ended

    async def kill(self) -> None:
        """End it by SIGKILL."""
        self._signal(signal.SIGKILL)
        await self._ended()

    async def failure(self) -> PartFailed:
        """Return once it has ended, which nobody asked for."""
        return PartFailed(self._with_log(f"ended ({_how(await self._ended())})"))

    async def _asked_until_ready(self) -> None:
        while True:
            ready = await self.program.ready()
            # After the question: else whatever else answers it would stand in for a part that has ended.
            if not self.running:
                raise await self.failure()
            if ready:
                return
            await asyncio.sleep(_POLL_S)

    async def _ended(self) -> int:
        return await self._process.wait() if self._process else 0

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _with_log(self, what: str) -> str:
        with self.program.log.open("rb") as log:
            log.seek(max(self._log_start, self.program.log.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").strip().splitlines()[-5:]
        return "\n  ".join([f"{self.program.name} {what}; the end of {self.program.log}:", *lines])


def _how(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
