"""The garbage collector in a running Keytoll."""

import gc
from collections.abc import Iterator

import pytest

from keytoll import memory


@pytest.fixture
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class _Self:
    alive = 0

    def __init__(self) -> None:
        self.me = self
        type(self).alive += 1

    def __del__(self) -> None:
        type(self).alive -= 1


@pytest.mark.usefixtures("as_before")
def test_what_is_there_at_the_start_is_not_looked_at_again_and_cycles_made_later_are_still_freed() -> None:
    memory.settle_in()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < 10_000
    for _ in range(100_000):
        _Self()
    assert _Self.alive < 50_000
