"""Large bodies under way: how many a key may have Envoy buffer at once.

Envoy's own overload manager does not bound what authenticated callers make it buffer, so the headers-only Check does. A
body is counted from that Check until its request is settled; one whose full Check never comes is forgotten after as long
as Envoy lets an upload take.
"""

from collections.abc import Callable
from uuid import UUID

MAX_LARGE_BODIES = 8
"""At once, for each key: a quarter of a gigabyte."""

MAX_LARGE_BODIES_IN_ALL = 24
"""At once, for all keys: three quarters of the heap that envoy.yaml grants."""

UPLOAD_S = 300.0
"""Envoy's request_timeout, in envoy.yaml."""


class LargeBodies:
    """Large bodies by key and by Envoy's request id. `monotonic` gives seconds of a clock that never steps."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._by_key: dict[str, dict[str, float]] = {}
        self._decided: dict[UUID, tuple[str, str]] = {}

    def begin(self, key_id: str, request_id: str) -> bool:
        """Count a body that is about to come; False if the key, or all keys together, have too many under way."""
        self._forget_stale()
        bodies = self._by_key.get(key_id, {})
        in_all = sum(len(each) for each in self._by_key.values())
        if len(bodies) >= MAX_LARGE_BODIES or in_all >= MAX_LARGE_BODIES_IN_ALL:
            return False
        self._by_key.setdefault(key_id, bodies)[request_id] = self._monotonic() + UPLOAD_S
        return True

    def decide(self, key_id: str, request_id: str, decision_id: UUID) -> None:
        """Tie a body, if it is a large one, to the decision about its request: it ends with that."""
        bodies = self._by_key.get(key_id, {})
        if request_id in bodies:
            bodies[request_id] = float("inf")
            self._decided[decision_id] = (key_id, request_id)

    def refuse(self, key_id: str, request_id: str) -> None:
        """Forget a body whose request was refused."""
        bodies = self._by_key.get(key_id)
        if bodies is not None:
            bodies.pop(request_id, None)
            if not bodies:
                del self._by_key[key_id]

    def end(self, decision_id: UUID) -> None:
        """Forget the body of a decision that is settled."""
        if (found := self._decided.pop(decision_id, None)) is not None:
            self.refuse(*found)

    def _forget_stale(self) -> None:
        now_s = self._monotonic()
        for key_id, bodies in list(self._by_key.items()):  # at most as many as MAX_LARGE_BODIES_IN_ALL
            for request_id in [known for known, until_s in bodies.items() if until_s < now_s]:
                self.refuse(key_id, request_id)
