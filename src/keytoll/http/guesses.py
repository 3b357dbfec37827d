"""A bound on guessing: how often a source may fail to sign in.

Each source has a bucket of failures, which fills up again with time. While a source's bucket is empty, a token that has
not worked of late is refused without asking the store; one that has goes on, so that whoever shares an address with the
one who guesses is not locked out. Other sources notice nothing.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

FAILURES = 20
"""How many failures a source has at once."""

REFILL_S = 3.0
"""How long one of them takes to come back."""

_GOOD_S = 3600.0


class TooManyFailures(Exception):
    """The source has failed too often. It may try again after `retry_after_s`."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many failures; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class WrongToken(Exception):
    """What was given is no access token that is in force."""


@dataclass(slots=True)
class _Bucket:
    left: float
    as_of_s: float


class Guesses:
    """Counts failures by source, and knows which tokens were good of late, by their digests. Both are bounded.

    A source whose bucket is full again is forgotten first; if there are too many others, then the one that tried longest
    ago. `monotonic` gives seconds.
    """

    def __init__(self, *, monotonic: Callable[[], float], max_sources: int = 10_000, max_good: int = 10_000) -> None:
        self._monotonic = monotonic
        self._max_sources = max_sources
        self._max_good = max_good
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # by their last attempt
        self._good: OrderedDict[bytes, float] = OrderedDict()  # by when each was good last

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._buckets)

    @contextmanager
    def attempt(self, source: str, digest: bytes | None) -> Iterator[None]:
        """Find out, while the context lasts, whether the token of this digest is good; None if it can't be one.

        The context raises WrongToken if it isn't. A failure is taken at once and given back if there was none, so that
        many attempts at the same time get no further than one after the other. Raises TooManyFailures.
        """
        group, known = _group(source), self._is_good(digest)
        if not known:
            self._take(group)
        try:
            yield
        except WrongToken:
            if known and digest is not None:
                self._good.pop(digest, None)
                self._change(group, by=-1)
            raise
        except BaseException:  # an outage, or the caller has left: neither tells anything of the token
            self._change(group, by=0 if known else 1)
            raise
        self._change(group, by=0 if known else 1)
        if digest is not None:
            self._note_good(digest)

    def _take(self, group: str) -> None:
        left = self._left(group)
        if left < 1:
            raise TooManyFailures(math.ceil((1 - left) * REFILL_S))
        self._change(group, by=-1)

    def _left(self, group: str) -> float:
        bucket = self._buckets.get(group)
        if bucket is None:
            return FAILURES
        return min(FAILURES, bucket.left + (self._monotonic() - bucket.as_of_s) / REFILL_S)

    def _change(self, group: str, *, by: int) -> None:
        left = max(0.0, self._left(group) + by)
        self._buckets.pop(group, None)
        if left < FAILURES:
            self._buckets[group] = _Bucket(left, self._monotonic())
        while self._buckets and (len(self._buckets) > self._max_sources or self._left(self._oldest) >= FAILURES):
            del self._buckets[self._oldest]

    @property
    def _oldest(self) -> str:
        return next(iter(self._buckets))

    def _is_good(self, digest: bytes | None) -> bool:
        since_s = None if digest is None else self._good.get(digest)
        return since_s is not None and self._monotonic() - since_s < _GOOD_S

    def _note_good(self, digest: bytes) -> None:
        self._good[digest] = self._monotonic()
        self._good.move_to_end(digest)
        if len(self._good) > self._max_good:
            self._good.popitem(last=False)


def _group(source: str) -> str:
    """Return what counts as one source: an IPv4 address, or the /64 of an IPv6 one, which anyone has whole."""
    try:
        address = ip_address(source)
    except ValueError:
        return source
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address), 64), strict=False).network_address)
