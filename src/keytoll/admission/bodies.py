"""Large bodies under way: how many bytes callers may have Envoy buffer at once.

Envoy's own overload manager does not bound what authenticated callers make it buffer, so the headers-only Check does. A
body is counted, as large as it was declared, from that Check until its request is settled; one whose full Check never
comes is forgotten after as long as Envoy lets an upload take.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

_MIB = 2**20

MOST_BYTES_OF_A_KEY = 256 * _MIB
"""At once, of one key: eight bodies of the largest size."""

MOST_BYTES_IN_ALL = 768 * _MIB
"""At once, of all keys: three quarters of the heap that envoy.yaml grants."""

UPLOAD_S = 300.0
"""Envoy's request_timeout, in envoy.yaml."""

_SWEEP_S = 1.0


@dataclass(frozen=True, slots=True)
class _Body:
    key_id: str
    size_bytes: int
    until_s: float | None  # None once it belongs to a decision


class LargeBodies:
    """Large bodies by Envoy's request id. `monotonic` gives seconds of a clock that never steps."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._bodies: dict[str, _Body] = {}
        self._bytes_of: dict[str, int] = {}
        self._decided: dict[UUID, str] = {}
        self._swept_s = monotonic()

    def begin(self, key_id: str, request_id: str, size_bytes: int) -> bool:
        """Count a body that is about to come; False if the key, or all keys together, have too much under way."""
        if not self._has_room(key_id, size_bytes):
            self._forget_stale()
            if not self._has_room(key_id, size_bytes):
                return False
        self.refuse(request_id)
        self._bodies[request_id] = _Body(key_id, size_bytes, self._monotonic() + UPLOAD_S)
        self._bytes_of[key_id] = self._bytes_of.get(key_id, 0) + size_bytes
        return True

    def decide(self, request_id: str, decision_id: UUID) -> None:
        """Tie a body, if it is a large one, to the decision about its request: it ends with that."""
        if (body := self._bodies.get(request_id)) is not None:
            self._bodies[request_id] = replace(body, until_s=None)
            self._decided[decision_id] = request_id

    def refuse(self, request_id: str) -> None:
        """Forget a body whose request was refused."""
        if (body := self._bodies.pop(request_id, None)) is None:
            return
        self._bytes_of[body.key_id] -= body.size_bytes
        if not self._bytes_of[body.key_id]:
            del self._bytes_of[body.key_id]

    def end(self, decision_id: UUID) -> None:
        """Forget the body of a decision that is settled."""
        if self._decided and (request_id := self._decided.pop(decision_id, None)) is not None:
            self.refuse(request_id)

    def _has_room(self, key_id: str, size_bytes: int) -> bool:
        of_key = self._bytes_of.get(key_id, 0) + size_bytes
        return of_key <= MOST_BYTES_OF_A_KEY and sum(self._bytes_of.values()) + size_bytes <= MOST_BYTES_IN_ALL

    def _forget_stale(self) -> None:
        now_s = self._monotonic()
        if now_s < self._swept_s + _SWEEP_S:
            return
        self._swept_s = now_s
        for request_id, body in list(self._bodies.items()):
            if body.until_s is not None and body.until_s < now_s:
                self.refuse(request_id)
