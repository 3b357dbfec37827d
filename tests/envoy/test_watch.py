"""What the watch makes of the two things that tell when an Envoy began: its uptime in whole seconds, and the time of its
socket's file. The instants are exact, so Envoy's part is played; tests/e2e/test_money.py has the real one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from keytoll.envoy.admin import Admin
from keytoll.envoy.watch import EnvoyWatch

S = 1_000_000
NOW_US = 1_790_000_000_700_000


@dataclass
class Says:
    """An Envoy that has run for so long, by its own word."""

    seconds: int

    async def uptime_s(self) -> int:
        """Return it."""
        return self.seconds


async def dead_before_us(*, uptime_s: int, bound_us: int | None) -> int:
    watch = EnvoyWatch(
        cast("Admin", Says(uptime_s)), clock=lambda: NOW_US, monotonic=lambda: 0.0, bound_us=lambda: bound_us
    )
    await watch.look()
    return watch.dead_before_us


async def test_the_sockets_file_tells_to_the_instant_when_the_last_envoy_was_gone() -> None:
    """By the uptime alone, what one ran in its last second that was back within a second would stay in doubt for an hour."""
    assert await dead_before_us(uptime_s=60, bound_us=NOW_US - 60 * S + 1) == NOW_US - 60 * S + 1
    assert await dead_before_us(uptime_s=0, bound_us=NOW_US - 1) == NOW_US - 1


@pytest.mark.parametrize(
    "bound_us",
    [
        pytest.param(None, id="not known"),
        pytest.param(NOW_US - 62 * S, id="made by the Envoy before"),
        pytest.param(NOW_US - 29 * S, id="touched since"),
        pytest.param(NOW_US + S, id="in the future"),
    ],
)
async def test_a_time_that_does_not_fit_the_uptime_counts_for_nothing(bound_us: int | None) -> None:
    assert await dead_before_us(uptime_s=60, bound_us=bound_us) == NOW_US - 61 * S


async def test_an_envoy_whose_clock_was_set_back_says_nothing() -> None:
    assert await dead_before_us(uptime_s=-5, bound_us=NOW_US - S) == 0


def test_the_time_of_a_socket_that_is_not_there_is_not_known(tmp_path: Path) -> None:
    assert Admin(tmp_path / "admin.sock").bound_us() is None
