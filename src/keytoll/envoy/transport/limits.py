"""What peers may take of a server, so that none of them can take it from the others."""

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What peers may take.

    `message_bytes` bounds one message, `unfinished_bytes` all that have not arrived in whole, `unsent_bytes` the answers
    that one peer's flow control holds up. `handshake_s` is the time for a peer's first settings, `stall_s` the time for
    which its socket may take nothing. `resets` is a burst and a rate per second: callers who leave make Envoy reset
    calls, so it is generous, and a reset costs no more than a call.
    """

    connections: int = 512
    calls_per_connection: int = 10_000
    message_bytes: int = 4 * _MIB
    unfinished_bytes: int = 64 * _MIB
    unsent_bytes: int = 32 * _MIB
    handshake_s: float = 10.0
    stall_s: float = 30.0
    resets: tuple[int, int] = (20_000, 10_000)


class Room:
    """Bounds what unfinished messages take, over all connections."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    def take(self, count: int) -> bool:
        """Take so many bytes, and tell whether they fitted in. They are to be given back even if not."""
        self._left -= count
        return self._left >= 0

    def give(self, count: int) -> None:
        """Give back what was taken."""
        self._left += count
