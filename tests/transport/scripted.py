"""A method that does what its message says, and keeps what it was asked and what it got back."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from google.protobuf.message import DecodeError

PATIENCE_S = 15.0


async def until(look: Callable[[], object]) -> None:
    """Return once it is so. Raises AssertionError when patience ends."""
    end_s = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < end_s, f"still not so after {PATIENCE_S} s"
        await asyncio.sleep(0.005)


class Script:
    """Answers `size N` with N bytes, `wait …` when the gate is opened, and most else with the message itself."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.voided: list[bytes] = []
        self.cancelled = self.waiting = 0
        self.gate = asyncio.Event()

    def __call__(self, message: bytes) -> bytes | Awaitable[bytes]:
        """Answer a message."""
        self.asked.append(message)
        word, _, rest = message.partition(b" ")
        match word:
            case b"size":
                return bytes(int(rest))
            case b"wait":
                return self._wait(message)
            case b"later":
                return self._later(rest)
            case b"garbage":
                raise DecodeError
            case b"fault":
                raise RuntimeError("secret")
            case _:
                return message

    def void(self, answer: bytes) -> None:
        """Take back an answer."""
        self.voided.append(answer)

    async def _wait(self, message: bytes) -> bytes:
        self.waiting += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return message

    async def _later(self, message: bytes) -> bytes:
        await asyncio.sleep(0)
        found = self(message)
        return found if isinstance(found, bytes) else await found
