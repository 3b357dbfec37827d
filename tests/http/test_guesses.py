"""Guessing tokens is bounded by source, and harms nobody but the one who guesses."""

import pytest

from keytoll.http.guesses import FAILURES, REFILL_S, Guesses, TooManyFailures, WrongToken


class Seconds:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def guesses(seconds: Seconds) -> Guesses:
    return Guesses(monotonic=seconds, max_sources=100, max_good=3)


def fail(guesses: Guesses, source: str, digest: bytes | None = b"wrong", *, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(WrongToken), guesses.attempt(source, digest):
            raise WrongToken


def succeed(guesses: Guesses, source: str, digest: bytes = b"good") -> None:
    with guesses.attempt(source, digest):
        pass


def assert_refused(guesses: Guesses, source: str, digest: bytes | None = b"another") -> int:
    with pytest.raises(TooManyFailures) as raised, guesses.attempt(source, digest):
        pytest.fail("the store was asked")
    return raised.value.retry_after_s


def test_a_source_that_failed_too_often_is_refused_until_some_time_has_passed(
    guesses: Guesses, seconds: Seconds
) -> None:
    fail(guesses, "192.0.2.1", times=FAILURES)
    assert assert_refused(guesses, "192.0.2.1") == REFILL_S
    assert_refused(guesses, "192.0.2.1", None)
    seconds.now_s += REFILL_S
    fail(guesses, "192.0.2.1")
    assert_refused(guesses, "192.0.2.1")


def test_other_sources_notice_nothing(guesses: Guesses) -> None:
    fail(guesses, "192.0.2.1", times=FAILURES)
    succeed(guesses, "192.0.2.2")


def test_a_token_that_was_good_of_late_goes_on_from_the_same_source(guesses: Guesses, seconds: Seconds) -> None:
    succeed(guesses, "192.0.2.1", b"alice")
    fail(guesses, "192.0.2.1", times=FAILURES)
    seconds.now_s += 1
    succeed(guesses, "192.0.2.1", b"alice")
    assert_refused(guesses, "192.0.2.1", b"bob")


def test_a_token_that_is_good_no_more_is_a_guess_from_then_on(guesses: Guesses) -> None:
    succeed(guesses, "192.0.2.1", b"alice")
    fail(guesses, "192.0.2.1", times=FAILURES - 1)
    fail(guesses, "192.0.2.1", b"alice")
    assert_refused(guesses, "192.0.2.1", b"alice")


def test_what_works_costs_nothing(guesses: Guesses) -> None:
    for number in range(10 * FAILURES):
        succeed(guesses, "192.0.2.1", str(number).encode())
    assert len(guesses) == 0


def test_an_outage_is_no_failure(guesses: Guesses) -> None:
    for _ in range(2 * FAILURES):
        with pytest.raises(OSError), guesses.attempt("192.0.2.1", b"x"):
            raise OSError
    assert len(guesses) == 0


def test_attempts_at_the_same_time_get_no_further(guesses: Guesses) -> None:
    running = [guesses.attempt("192.0.2.1", str(number).encode()) for number in range(FAILURES)]
    for attempt in running:
        attempt.__enter__()
    assert_refused(guesses, "192.0.2.1")
    for attempt in running:
        attempt.__exit__(None, None, None)
    succeed(guesses, "192.0.2.1", b"another")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("api.sock", "api.sock", True),
    ],
)
def test_a_source_is_an_address_or_of_ipv6_a_64(guesses: Guesses, one: str, other: str, same: bool) -> None:
    fail(guesses, one, times=FAILURES)
    if same:
        assert_refused(guesses, other)
    else:
        succeed(guesses, other)


def test_what_is_remembered_is_bounded(guesses: Guesses, seconds: Seconds) -> None:
    for number in range(1000):
        fail(guesses, f"192.0.2.{number % 256}.{number}")
    assert len(guesses) == 100
    seconds.now_s += REFILL_S
    fail(guesses, "192.0.2.1")
    assert len(guesses) == 1
