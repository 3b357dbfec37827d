"""What users of similar systems ran into, and that each such case has a test of ours which names it.

A test names its cases in its docstring or a comment: "User report 13", or "User reports 12 and 30".
"""

import re
from pathlib import Path

import pytest

CASES = {
    1: "a key deleted at one replica, used at another",
    2: "a cached key is deleted",
    3: "an organization ends, or an admin's role",
    4: "one month from the 31st",
    5: "half an hour saved as never",
    6: "an expiry in milliseconds, far away, or past",
    7: "names in any script, empty, too long, with control characters",
    8: "a misspelt field makes an unlimited key",
    9: "a month that is thirty days",
    10: "a month that starts at another zone's midnight",
    11: "limits below zero, and of zero",
    12: "a balance that is negative already",
    13: "requests at once on a balance for few",
    14: "limits beyond 32 bits",
    15: "which limit was it, and until when",
    16: "a price that an operator made up, taken for free",
    17: "a path around the quota",
    18: "cached input within the prompt",
    19: "written to the cache and counted twice, or a cached price that isn't applied",
    20: "reasoning within the output",
    21: "a stream that didn't ask for its usage",
    22: "a stream that its caller cuts",
    23: "an answer without its usage",
    24: "a usage of zeros",
    25: "usage told more than once",
    26: "usage in pieces",
    27: "stopped with charges in flight",
    28: "a pool of connections under load, and totals locked in opposite orders",
    29: "series for each key or for junk",
    30: "whether a refusal can be retried, and when",
    31: "Check away: 403, or an open door",
}

HALVES = {
    1: "issue 6: within one process it holds; replicas come with PostgreSQL",
    28: "issue 6: SQLite has one writer; a pool comes with PostgreSQL",
}
"""Cases of which a part applies now, and is tested, and what brings the rest."""

_NAMED = re.compile(r"user reports?((?:,? (?:and )?\d+)+)", re.IGNORECASE)


def named_cases() -> set[int]:
    """Return the cases that tests name."""
    files = [path for path in Path(__file__).parent.rglob("*.py") if path != Path(__file__)]
    lists = [match for path in files for match in _NAMED.findall(path.read_text())]
    return {int(number) for numbers in lists for number in re.findall(r"\d+", numbers)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case}")
def test_every_case_that_applies_is_named_by_a_test(case: int) -> None:
    """Of a case in HALVES, the half that applies."""
    assert case in named_cases(), f"no test names user report {case}: {CASES[case]}"


def test_no_test_names_a_case_that_there_is_not() -> None:
    assert named_cases() <= CASES.keys()
    assert list(CASES) == list(range(1, 32))


def test_what_a_case_lacks_says_with_which_issue_it_comes() -> None:
    assert HALVES.keys() <= CASES.keys()
    assert all(re.match(r"issue \d+: ", reason) for reason in HALVES.values())
