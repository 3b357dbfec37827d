"""What an edit is told to do is what it does."""

from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.access import Networks
from keytoll.core.edit import Edit, effects
from keytoll.core.holds import KeyHolds
from keytoll.core.keys import Key
from keytoll.core.money import NANO
from keytoll.core.months import Calendar, to_us
from keytoll.core.quota import Quota, QuotaKind, Totals, is_spent

SHANGHAI = ZoneInfo("Asia/Shanghai")


def at(text: str) -> int:
    return to_us(datetime.fromisoformat(text).replace(tzinfo=SHANGHAI))


NOW_US = at("2026-11-27T20:00")
KEY = Key("key_1", "users/alice", "production", b"", "7f2a", Quota(), None, at("2026-01-15T09:30"))
TOTALS = Totals(lifetime_nano=120 * NANO, by_month={"2026-10": 80 * NANO, "2026-11": 40 * NANO})
RESETS = "2026-12-01T00:00:00+08:00"


def monthly(limit: int) -> Quota:
    return Quota(QuotaKind.MONTHLY, limit * NANO)


def total(limit: int) -> Quota:
    return Quota(QuotaKind.TOTAL, limit * NANO)


def told(before: Key, after: Key, *, holds: KeyHolds | None = None) -> list[str]:
    edit = Edit(before, after, TOTALS, holds or KeyHolds(), NOW_US, Calendar(SHANGHAI), "CNY")
    return list(effects(edit))


def quota_told(before: Quota, after: Quota, *, holds: KeyHolds | None = None) -> list[str]:
    return told(replace(KEY, quota=before), replace(KEY, quota=after), holds=holds)


def test_a_monthly_limit_counts_this_month_from_its_first_and_tells_what_is_left() -> None:
    assert quota_told(Quota(), monthly(100)) == [
        (
            "From now on a limit of ¥100.00 applies to each calendar month;"
            " this one is counted from 2026-11-01T00:00:00+08:00 on."
        ),
        "Of it ¥40.00 is used and ¥60.00 remains.",
        f"It resets at {RESETS}, and with each month after.",
        "The key is not blocked by its quota.",
    ]


def test_a_total_limit_counts_the_keys_whole_life() -> None:
    assert quota_told(monthly(100), total(200)) == [
        (
            "From now on a limit of ¥200.00 applies to all that the key spends,"
            " since its creation at 2026-01-15T09:30:00+08:00."
        ),
        "Of it ¥120.00 is used and ¥80.00 remains.",
        "It never resets.",
        "The key is not blocked by its quota.",
    ]


def test_a_limit_below_what_is_spent_blocks_at_once_until_the_month_ends_or_for_good() -> None:
    *_, used, resets, blocked = quota_told(Quota(), monthly(30))
    assert used == "Of it ¥40.00 is used, ¥10.00 beyond it, and ¥0.00 remains."
    assert RESETS in resets
    assert blocked.startswith(f"The key is at once blocked by its quota, until {RESETS}: ")
    assert quota_told(Quota(), total(120))[-1].startswith(
        "The key is at once blocked by its quota, until it is raised: "
    )
    assert quota_told(monthly(30), monthly(40))[-1].startswith("The key stays blocked by its quota, until 2026-12-01")


def test_a_monthly_limit_of_nothing_is_not_told_to_end_with_the_month() -> None:
    """User report 11: 0 blocks, and blocks in the next month too."""
    assert "until it is raised" in quota_told(Quota(), monthly(0))[-1]


def test_a_raised_limit_unblocks() -> None:
    assert quota_told(total(100), total(150))[-1] == "From now on the key is no longer blocked by its quota."
    assert quota_told(total(100), monthly(50))[-1] == "From now on the key is no longer blocked by its quota."


def test_without_a_limit_spending_is_only_counted() -> None:
    assert quota_told(total(100), Quota()) == [
        "No limit applies from now on; what is spent, ¥120.00 so far, is only counted.",
        "From now on the key is no longer blocked by its quota.",
    ]


def test_requests_under_way_are_told_with_what_they_hold_and_how_far_spending_may_go() -> None:
    holds = KeyHolds().plus("2026-11", 15 * NANO).plus("2026-11", 10 * NANO)
    running = (
        "2 requests are under way, holding at most ¥25.00;"
        " what is under way finishes and is charged, whatever is edited."
    )
    again = "Until enough of them have finished, further requests are told to try again."
    assert quota_told(Quota(), monthly(100), holds=holds)[4:] == [running]
    assert quota_told(Quota(), monthly(65), holds=holds)[4:] == [running, again]
    beyond = "With them the spending may reach ¥65.00, ¥15.00 beyond the limit."
    assert quota_told(Quota(), monthly(50), holds=holds)[4:] == [running, beyond, again]
    beyond = "With them the spending may reach ¥65.00, ¥35.00 beyond the limit."
    assert quota_told(Quota(), monthly(30), holds=holds)[4:] == [running, beyond]
    assert quota_told(monthly(30), Quota(), holds=holds)[2:] == [running]


def test_of_requests_under_way_those_of_this_month_count_towards_a_monthly_limit() -> None:
    holds = KeyHolds().plus("2026-10", 15 * NANO).plus("2026-11", 10 * NANO)
    assert "1 request is under way, holding at most ¥10.00;" in quota_told(Quota(), monthly(100), holds=holds)[-1]
    assert "2 requests are under way, holding at most ¥25.00;" in quota_told(Quota(), total(200), holds=holds)[-1]


def test_a_request_without_a_bound_lets_no_other_through() -> None:
    again = "Until enough of them have finished, further requests are told to try again."
    alone = KeyHolds().plus("2026-11", None)
    assert quota_told(Quota(), monthly(100), holds=alone)[4:] == [
        (
            "1 request is under way, holding what can't be bounded;"
            " what is under way finishes and is charged, whatever is edited."
        ),
        again,
    ]
    both = alone.plus("2026-11", 10 * NANO)
    running, last = quota_told(Quota(), monthly(100), holds=both)[4:]
    assert running.startswith("2 requests are under way, holding at most ¥10.00 and what can't be bounded;")
    assert last == again


def test_an_expiry_is_told_with_its_moment() -> None:
    soon = replace(KEY, expires_at_us=at("2026-11-28T00:00"))
    assert told(KEY, soon) == ["It expires at 2026-11-28T00:00:00+08:00: requests are refused from then on."]
    assert told(soon, KEY) == ["It never expires."]
    assert told(soon, soon) == ["Nothing changes."]
    holds = KeyHolds().plus("2026-11", NANO)
    assert told(KEY, soon, holds=holds)[1].startswith("1 request is under way, holding at most ¥1.00;")


def test_an_expired_key_works_again_only_if_its_expiry_is_edited() -> None:
    expired = replace(KEY, expires_at_us=NOW_US)
    since = "since 2026-11-27T20:00:00+08:00"
    assert told(expired, replace(expired, name="other"))[1] == f"The key stays expired, {since}, and refused."
    assert told(expired, KEY) == [f"Expired {since}, it works again from now on.", "It never expires."]
    later = replace(KEY, expires_at_us=NOW_US + 1_000_000)
    assert told(expired, later) == [
        f"Expired {since}, it works again from now on.",
        "It expires at 2026-11-27T20:00:01+08:00: requests are refused from then on.",
    ]


def test_a_name_alone_changes_nothing_else() -> None:
    holds = KeyHolds().plus("2026-11", NANO)
    assert told(KEY, replace(KEY, name="生产 🚀"), holds=holds) == [
        'The key is called "生产 🚀" instead of "production"; its secret stays the same.'
    ]
    assert told(KEY, KEY, holds=holds) == ["Nothing changes."]


quotas = st.just(Quota()) | st.builds(monthly, st.integers(0, 200)) | st.builds(total, st.integers(0, 200))


@given(quotas, quotas)
def test_blocked_is_told_exactly_where_admission_would_refuse(before: Quota, after: Quota) -> None:
    sentences = quota_told(before, after)
    if before == after:
        assert sentences == ["Nothing changes."]
        return
    blocked = any("blocked by its quota, until" in sentence for sentence in sentences)
    assert blocked == is_spent(after, TOTALS, "2026-11")


@pytest.mark.parametrize(("now", "used"), [("2026-11-30T23:59:59", "¥40.00"), ("2026-12-01T00:00:00", "¥0.00")])
def test_which_month_counts_is_the_billing_zones(now: str, used: str) -> None:
    after = replace(KEY, quota=monthly(100))
    edit = Edit(KEY, after, TOTALS, KeyHolds(), at(now), Calendar(SHANGHAI), "CNY")
    assert effects(edit)[1].startswith(f"Of it {used} is used")


def test_what_a_key_is_allowed_is_told_in_words() -> None:
    limited = replace(KEY, allowed_models=("a", "b", "c"), allowed_networks=Networks(("10.0.0.0/8",)))
    assert told(KEY, limited) == [
        "It may use only a, b and c from now on.",
        "It may be used from 10.0.0.0/8 only from now on.",
    ]
    assert told(limited, KEY) == ["It may use every model from now on.", "It may be used from anywhere from now on."]


def test_disabling_is_told_with_what_becomes_of_requests_under_way() -> None:
    disabled = replace(KEY, disabled=True)
    assert told(KEY, disabled) == ["The key is disabled: requests are refused at once."]
    assert told(disabled, KEY) == ["The key is enabled again."]
    assert told(disabled, replace(disabled, name="other"))[-1] == "The key stays disabled, and refused."
    assert len(told(KEY, disabled, holds=KeyHolds().plus("2026-11", 5))) == 2
