"""The garbage collector: what is here at the start is looked at no more, and what is new seldom."""

import gc

_NEW_OBJECTS = 20_000
_OF_YOUNG, _OF_OLD = 10, 100


def settle_in() -> None:
    """Take all that was made so far for lasting, and look for cycles less often. Call it once everything is wired.

    Nearly all that a request makes is freed at once, without the collector. Left as it is, it looks through every object
    of the process again and again, each time for tens of milliseconds, for which all Checks wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _OF_YOUNG, _OF_OLD)
