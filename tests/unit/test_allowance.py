"""How replicas share a key's remainder: the rule by tables, its bound and its liveness by simulation."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.allowance import NOTHING_GRANTED, Allowance, Ask, Grant, Outcome, after_charges, grant
from keytoll.core.holds import Held, KeyHolds, fits, unused_nano
from keytoll.core.quota import Quota, QuotaKind, Totals

MONTH = "2026-11"
NOTHING = KeyHolds()


def ask(least: int | None, *, wanted: int = 0, holds: int = 0, held: int = 0) -> Ask:
    return Ask(holds=holds, held_nano=held, least_nano=least, wanted_nano=wanted)


@pytest.mark.parametrize(
    ("asked", "spent", "own", "others", "replicas", "expected"),
    [
        # Much is left: half of an equal share, or what is needed if that is more.
        (ask(10), 0, 0, 0, 1, Grant(Outcome.GRANTED, 500)),
        (ask(10), 0, 0, 0, 5, Grant(Outcome.GRANTED, 100)),
        (ask(300), 0, 0, 0, 5, Grant(Outcome.GRANTED, 300)),
        (ask(10, wanted=300), 0, 0, 0, 5, Grant(Outcome.GRANTED, 300)),
        (ask(10), 900, 0, 60, 2, Grant(Outcome.GRANTED, 10)),  # it shrinks with the remainder
        (ask(50, holds=2, held=30), 500, 40, 0, 50, Grant(Outcome.GRANTED, 40)),  # beside what it holds already
        (ask(50, wanted=100, holds=1, held=30), 920, 40, 0, 2, Grant(Outcome.GRANTED, 40, whole=True)),
        (ask(50, wanted=900), 940, 0, 0, 3, Grant(Outcome.GRANTED, 60, whole=True)),  # as many of them as there is for
        (ask(5, holds=1, held=3), 500, 20, 480, 2, Grant(Outcome.GRANTED, 0)),  # it has more than it knew
        # The last request: to one replica, if nobody else has anything.
        (ask(50), 990, 0, 0, 3, Grant(Outcome.GRANTED, 10, whole=True)),
        (ask(50), 990, 10, 0, 3, Grant(Outcome.GRANTED, 0, whole=True)),
        (ask(None), 400, 0, 0, 3, Grant(Outcome.GRANTED, 600, whole=True)),
        (ask(50), 990, 0, 1, 3, Grant(Outcome.HELD)),
        (ask(None), 400, 0, 1, 3, Grant(Outcome.HELD)),
        (ask(50, holds=1, held=10), 990, 10, 0, 3, Grant(Outcome.HELD)),
        (ask(None, holds=1, held=10), 400, 10, 0, 3, Grant(Outcome.HELD)),
        # The limit was lowered below what is granted: nothing more, until that is back.
        (ask(50), 900, 0, 600, 3, Grant(Outcome.HELD)),
        (ask(1), 1000, 0, 0, 1, Grant(Outcome.SPENT)),
        (ask(0), 1001, 0, 10, 1, Grant(Outcome.SPENT)),
    ],
)
def test_what_a_replica_gets_of_a_limit_of_1000(
    asked: Ask, spent: int, own: int, others: int, replicas: int, expected: Grant
) -> None:
    found = grant(asked, limit_nano=1000, spent_nano=spent, own_nano=own, others_nano=others, replicas=replicas)
    assert found == expected


@given(
    st.integers(0, 1000),
    st.none() | st.integers(0, 1000),
    st.integers(0, 2000),
    st.integers(0, 3),
    st.integers(0, 300),
    st.integers(0, 1200),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.integers(1, 9),
)
def test_no_grant_passes_the_limit(
    limit: int,
    least: int | None,
    wanted: int,
    holds: int,
    held: int,
    spent: int,
    own: int,
    others: int,
    replicas: int,
) -> None:
    asked = Ask(holds, held if holds else 0, least, wanted)
    found = grant(asked, limit_nano=limit, spent_nano=spent, own_nano=own, others_nano=others, replicas=replicas)
    assert found.more_nano >= 0
    assert spent + own + others + found.more_nano <= max(limit, spent + own + others)
    if found.whole:
        assert others == 0
        assert spent + own + found.more_nano >= limit
    if found.outcome is Outcome.GRANTED and not found.whole:
        assert least is not None
        assert own + found.more_nano >= asked.held_nano + least


def test_without_the_whole_a_request_must_fit_into_the_allowance() -> None:
    quota = Quota(QuotaKind.TOTAL, 1000)

    def may(allowance: Allowance | None, worst: int | None, holds: KeyHolds = NOTHING) -> bool:
        return fits(quota=quota, totals=Totals(), holds=holds, month=MONTH, worst_nano=worst, allowance=allowance)

    assert not may(Allowance(), 1)
    assert may(Allowance(10), 10)
    assert not may(Allowance(10), 11)
    assert not may(Allowance(10), None)
    assert not may(Allowance(10), 5, KeyHolds().plus(MONTH, 6))
    assert may(Allowance(10, whole=True), 11)
    assert may(Allowance(10, whole=True), None)
    assert not may(Allowance(10, whole=True), 5, KeyHolds().plus(MONTH, 6))
    assert may(Allowance(11, whole=True), 5, KeyHolds().plus(MONTH, 6))
    assert not may(Allowance(11, whole=True), 5, KeyHolds().plus(MONTH, None))


def test_what_requests_under_way_may_cost_is_not_given_back() -> None:
    assert unused_nano(Allowance(10), Held()) == 10
    assert unused_nano(Allowance(10), Held().plus(4)) == 6
    assert unused_nano(Allowance(10, whole=True), Held().plus(400)) == 0
    assert unused_nano(Allowance(10, whole=True), Held().plus(None)) == 0


def test_a_charge_takes_from_the_grant_what_it_adds_to_what_is_spent() -> None:
    assert after_charges(100, 30) == 70
    assert after_charges(30, 100) == 0


@dataclass
class Replica:
    """What one replica knows: its allowance, and the worst cases that it holds."""

    allowance: Allowance = NOTHING_GRANTED
    held: list[int | None] = field(default_factory=list)

    @property
    def holds(self) -> KeyHolds:
        holds = KeyHolds()
        for worst in self.held:
            holds = holds.plus(MONTH, worst)
        return holds


class Deployment:
    """Replicas that share one key, beside a store whose grants are kept as a plain sum."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.quota = Quota(QuotaKind.MONTHLY, self.random.choice([0, 1, 50, 1000, 100_000]))
        self.limit = self.quota.limit_nano or 0
        self.replicas = [Replica() for _ in range(self.random.randint(1, 5))]
        self.spent = 0
        self.dearest = 0

    def request(self) -> None:
        replica, worst = self.random.choice(self.replicas), self.random.choice([1, 7, 40, 400, None])
        if not self._may(replica, worst):
            self._ask(replica, worst)
        if self._may(replica, worst):
            replica.held.append(worst)

    def settle(self) -> None:
        replica = self.random.choice(self.replicas)
        if not replica.held:
            return
        worst = replica.held.pop(self.random.randrange(len(replica.held)))
        charged = self.random.randint(0, 500 if worst is None else worst)
        self.dearest = max(self.dearest, charged)
        self.spent += charged
        granted, whole = replica.allowance
        replica.allowance = Allowance(after_charges(granted, charged), whole)

    def give_back(self) -> None:
        replica = self.random.choice(self.replicas)
        unused = unused_nano(replica.allowance, replica.holds.in_all)
        if unused:
            replica.allowance = Allowance(replica.allowance.granted_nano - unused)

    def check(self) -> None:
        granted = sum(replica.allowance.granted_nano for replica in self.replicas)
        assert granted == 0 or self.spent + granted <= self.limit
        assert self.spent < self.limit + max(self.dearest, 1)

    def someone_gets_through(self) -> bool:
        """Whether, once nobody uses anything, whoever asks is let through."""
        while any(replica.held for replica in self.replicas):
            self.settle()
        for replica in self.replicas:
            replica.allowance = Allowance()
        asker = self.random.choice(self.replicas)
        self._ask(asker, None)
        return self._may(asker, None)

    def _may(self, replica: Replica, worst: int | None) -> bool:
        holds, allowance = replica.holds, replica.allowance
        return self.spent < self.limit and fits(
            quota=self.quota, totals=Totals(), holds=holds, month=MONTH, worst_nano=worst, allowance=allowance
        )

    def _ask(self, replica: Replica, worst: int | None) -> None:
        held, own = replica.holds.in_all, replica.allowance.granted_nano
        found = grant(
            Ask(held.count, held.amount_nano, worst, worst or 0),
            limit_nano=self.limit,
            spent_nano=self.spent,
            own_nano=own,
            others_nano=sum(other.allowance.granted_nano for other in self.replicas if other is not replica),
            replicas=len(self.replicas),
        )
        if found.outcome is Outcome.GRANTED:
            replica.allowance = Allowance(own + found.more_nano, found.whole)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_replicas_do_a_key_spends_its_limit_plus_one_request_at_most(seed: int) -> None:
    deployment = Deployment(seed)
    for _ in range(400):
        step = deployment.random.choices(
            [deployment.request, deployment.settle, deployment.give_back], weights=[6, 4, 1]
        )[0]
        step()
        deployment.check()
    spent = deployment.spent >= deployment.limit
    assert deployment.someone_gets_through() is not (spent or deployment.spent >= deployment.limit)
