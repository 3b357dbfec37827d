"""The book of holds: what every key's requests under way may cost at most, from their admission to their settlement."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from math import inf
from typing import NamedTuple
from uuid import UUID

from keytoll.admission.file import AdmissionsFile
from keytoll.core.holds import KeyHolds
from keytoll.core.ledger import Admitted, Entry
from keytoll.store.base import LedgerStore

_NOTHING = KeyHolds()
_AT_ONCE = 1000


class _Hold(NamedTuple):
    of: Admitted | Entry
    request_id: str
    placed_s: float  # monotonic: a clock that steps must neither end a hold early nor keep it for ever

    @property
    def entry(self) -> Entry:
        return self.of if isinstance(self.of, Entry) else self.of.entry


class HoldBook:
    """Holds by key. Lives on one event loop.

    `monotonic` gives seconds of a clock that never steps. `on_end` is told each decision whose hold ends.
    """

    def __init__(
        self,
        file: AdmissionsFile,
        *,
        monotonic: Callable[[], float],
        on_end: Callable[[UUID], None] = lambda _: None,
    ) -> None:
        self._file = file
        self._monotonic = monotonic
        self._on_end = on_end
        self._holds: dict[int, _Hold] = {}
        """By decisions' numbers: a UUID is hashed by Python, at several times the cost."""
        self._by_key: dict[str, KeyHolds] = {}
        self._by_request: dict[str, UUID] = {}
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._holds)

    @property
    def now_s(self) -> float:
        """The time that holds are placed by."""
        return self._monotonic()

    def of(self, key_id: str) -> KeyHolds:
        """Return what the requests under way of a key hold."""
        return self._by_key.get(key_id, _NOTHING)

    def all(self) -> Iterator[tuple[str, KeyHolds]]:
        """Return what the requests under way of every key hold."""
        yield from self._by_key.items()

    def place(self, admitted: Admitted | Entry, *, request_id: str = "") -> None:
        """Hold a request's worst case. Raises OSError, and nothing is held, where that can't be written down first.

        `request_id` is Envoy's own id of the request, by which `void_request` knows it; empty if there is none.
        """
        self._file.append(admitted, request_id=request_id)
        self._add(admitted, request_id)

    async def restore(self, store: LedgerStore) -> None:
        """Open the admissions file, and hold again what an earlier process had admitted and the ledger doesn't know."""
        entries = self._file.open()
        for at in range(0, len(entries), _AT_ONCE):
            some = entries[at : at + _AT_ONCE]
            settled = await store.settled([entry.decision_id for entry in some])
            for entry in some:
                if entry.decision_id in settled:
                    self._file.end(entry.decision_id)
                else:
                    self._add(entry, self._file.request_of(entry.decision_id))

    def void(self, decision_id: UUID) -> None:
        """End the hold of a request whose Check was given up by Envoy before its answer: it will never be logged."""
        if self._drop(decision_id):
            with suppress(OSError):  # a restart would hold it again, and in time it would be found unsettled
                self._file.void(decision_id)

    def void_request(self, request_id: str) -> None:
        """End the hold of a request that ended at Envoy before Check's answer came; of others nothing is held."""
        decision_id = self._by_request.get(request_id)
        if decision_id is not None:
            self.void(decision_id)

    def end(self, decision_ids: Iterable[UUID]) -> None:
        """End the holds of requests that the ledger has taken over."""
        for decision_id in decision_ids:
            self._drop(decision_id)
            self._file.end(decision_id)

    def older_than(
        self, age_s: float, *, or_admitted_before_us: int = 0, if_placed_before_s: float = inf
    ) -> list[Entry]:
        """Return what was placed more than `age_s` ago, or both admitted and placed before two instants.

        The former is on the wall clock, the latter on that of `now_s`.
        """
        before_s = self._monotonic() - age_s
        return [
            hold.entry
            for hold in self._holds.values()
            if hold.placed_s < before_s
            or (hold.of.admitted_at_us < or_admitted_before_us and hold.placed_s < if_placed_before_s)
        ]

    async def released(self, key_id: str) -> None:
        """Return when a hold of the key ends."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key_id, [])
        waiting.append(future)
        try:
            await future
        finally:
            if future in waiting:
                waiting.remove(future)
            if not waiting and self._waiting.get(key_id) is waiting:
                del self._waiting[key_id]

    def waiting(self, key_id: str) -> int:
        """Return how many wait for a hold of the key to end."""
        return len(self._waiting.get(key_id, ()))

    def _add(self, admitted: Admitted | Entry, request_id: str) -> None:
        decision_id, key_id = admitted.decision_id, admitted.key_id
        self._holds[decision_id.int] = _Hold(admitted, request_id, self._monotonic())
        if request_id:
            self._by_request[request_id] = decision_id
        self._by_key[key_id] = self.of(key_id).plus(admitted.month, admitted.hold_nano)

    def _drop(self, decision_id: UUID) -> bool:
        hold = self._holds.pop(decision_id.int, None)
        if hold is None:
            return False
        self._on_end(decision_id)
        if self._by_request.get(hold.request_id) == decision_id:
            del self._by_request[hold.request_id]
        key_id = hold.of.key_id
        left = self.of(key_id).minus(hold.of.month, hold.of.hold_nano)
        if left.in_all.count:
            self._by_key[key_id] = left
        else:
            del self._by_key[key_id]
        for future in self._waiting.get(key_id, ()):
            if not future.done():
                future.set_result(None)
        return True
