"""The demo model: what it answers, and how it counts tokens. Both can be followed by hand.

A token is a run of letters, digits and underscores (of any script), or a run of any other characters between spaces.
So `Hello, world!` has four tokens: `Hello` `,` `world` `!`. Spaces count nothing.
"""

import re
from dataclasses import dataclass

ECHOED_TOKENS = 40
LONGEST_COUNT = 100_000

_TOKEN = re.compile(r"\w+|[^\w\s]+")
_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"\s*(?:\w+|[^\w\s]+)")
_COUNT_TO = re.compile(r"\s*count to (\d{1,6})\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Prompt:
    """`said` is what the model answers to. `cached_tokens` of `tokens` are those of the system's instructions:
    the demo model reports them as read from a cache, as a real one does for a beginning that it has seen before."""

    said: str
    tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """`pieces` hold one token each and join to the text. `cut`: the token limit ended it."""

    pieces: tuple[str, ...]
    cut: bool

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        return len(self.pieces)


def count_tokens(text: str) -> int:
    return sum(1 for _ in _TOKEN.finditer(text))


def pieces_of(text: str) -> tuple[str, ...]:
    """The text, cut so that each piece holds one token."""
    return tuple(_PIECE.findall(text))


def words(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(_WORD.findall(text.lower()))


def reply_to(said: str, *, limit_tokens: int | None) -> Reply:
    """The same answer to the same words, always: `Count to 500` is done, anything else is echoed."""
    pieces = pieces_of(_answer(said))
    kept = pieces if limit_tokens is None else pieces[:limit_tokens]
    return Reply(kept, cut=len(kept) < len(pieces))


def _answer(said: str) -> str:
    counting = _COUNT_TO.fullmatch(said)
    if counting:
        return " ".join(str(number) for number in range(1, min(int(counting[1]), LONGEST_COUNT) + 1))
    return f"You said: {_beginning(said)} Thank you for trying Keytoll!"


def _beginning(said: str) -> str:
    pieces = _PIECE.findall(said)
    if not pieces:
        return "nothing at all."
    rest = len(pieces) - ECHOED_TOKENS
    more = f" and {rest} tokens more." if rest > 0 else ""
    return "".join(pieces[:ECHOED_TOKENS]).strip() + more
