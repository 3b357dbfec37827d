"""Pages of lists."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from keytoll.core.errors import InvalidValue

MAX_PAGE = 1000
"""How many items a page has at most."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list. `next` is the `after` of the page that follows, None on the last one."""

    data: Sequence[T]
    next: str | None


def check_limit(limit: int) -> int:
    """Return how many items a page may have. Raises InvalidValue."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidValue("limit", f"must be from 1 to {MAX_PAGE}")
    return limit


def page_of(found: Sequence[T], limit: int, cursor: Callable[[T], str]) -> Page[T]:
    """Return the first `limit` of what was found by asking for one more, which tells whether a page follows."""
    data = found[:limit]
    return Page(data, cursor(data[-1]) if len(found) > limit else None)
