"""The promises about money under load, on the whole gateway: smaller versions of what `tests/load` proves.

The backend keeps books of its own, against which the ledger is audited.
"""

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from command_line import run
from load.backend import Served
from load.books import Evidence, audit, cost_nano, hold_nano
from load.burst import WORST_TOKENS, burst
from load.calls import Ask, Outcome
from load.envoy_ends import Plan as EndPlan
from load.envoy_ends import end_envoy
from load.full_disk import fill
from load.gateway import CountedGateway, counted_gateway
from load.kills import SMALL_OUTPUT, survive
from load.kills import Plan as KillPlan
from load.rotation import ENVIRONMENT, rotate

_firsts = count(100_000, 100_000)


@pytest.fixture(scope="module")
async def counted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CountedGateway]:
    """A gateway whose backend keeps books. Each test leaves it running."""
    async with counted_gateway(tmp_path_factory.mktemp("money"), environment=ENVIRONMENT) as gateway:
        yield gateway


@pytest.fixture
def first() -> int:
    """Return a number from which on no other test numbers its requests."""
    return next(_firsts)


@pytest.mark.parametrize(
    ("worth", "output", "admitted"),
    [(10, WORST_TOKENS, 10), (10, WORST_TOKENS // 2, None), (1, WORST_TOKENS, 1), (0.5, WORST_TOKENS, 1), (0, 1, 0)],
)
async def test_a_burst_spends_at_most_the_limit_and_one_request(
    counted: CountedGateway, first: int, worth: float, output: int, admitted: int | None
) -> None:
    """Each holds its worst case; where it costs that, exactly as many get through as the quota is worth, at least one."""
    done = await burst(counted, worth=worth, callers=100, first=first, output=output, delay_ms=300)
    assert done.violations == []
    assert admitted is None or done.ends["admitted"] == admitted, str(done)
    assert sum(done.ends.values()) == 100


async def test_a_keytoll_killed_again_and_again_charges_each_answer_once_and_keeps_the_bound(
    counted: CountedGateway, first: int
) -> None:
    plan = KillPlan(
        kills=3,
        answers_between=(20, 60),
        per_second=60,
        small_per_second=10,
        small_limit_nano=30 * SMALL_OUTPUT * 1_000_000,
    )
    done = await survive(counted, plan, first=first)
    assert done.audit.violations == []
    assert done.audit.whole >= 60, str(done)
    assert done.small_ran_dry, str(done)


async def test_an_envoy_that_is_told_to_stop_loses_nothing(counted: CountedGateway, first: int) -> None:
    plan = EndPlan(ends=2, by_kill=False, per_second=80, answers_between=(140, 180))
    done = await end_envoy(counted, plan, first=first)
    assert done.audit.violations == []
    assert done.audit.unsettled_answered == 0, str(done)


async def test_what_a_killed_envoy_lost_is_listed_though_it_was_started_again_at_once(
    counted: CountedGateway, first: int
) -> None:
    """Within a second is less than the precision of the uptime that Envoy tells."""
    plan = EndPlan(ends=2, by_kill=True, per_second=80, answers_between=(140, 180))
    done = await end_envoy(counted, plan, first=first)
    assert done.audit.violations == []
    listed = {
        row["decision_id"] for row in (await run(counted.run_dir, "unsettled", "list", "--limit=0", "--json")).json
    }
    assert len(listed) >= done.audit.unsettled > 0, str(done)


async def test_a_journal_rotated_under_load_loses_and_doubles_nothing(counted: CountedGateway, first: int) -> None:
    done = await rotate(counted, times=3, per_second=80, until_removed=False, first=first)
    assert done.audit.violations == []
    assert done.segments_made >= 3


async def test_failing_log_writes_stop_admission_until_they_work_again(counted: CountedGateway, first: int) -> None:
    """As on a full disk: Envoy can't write beyond what its journal holds. What it lost is listed, once it has ended."""
    done = await fill(counted, _write_limit(counted), lossy=True, per_second=60, answers=40, first=first)
    assert done.audit.violations == []
    assert done.audit.unsettled_answered > 0, str(done)


@contextmanager
def _write_limit(gateway: CountedGateway) -> Iterator[None]:
    """Let Envoy's files grow no more while the context lasts. It gets EFBIG: SIGXFSZ is ignored where Python began."""
    pid = gateway.stack.pids["envoy"]
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


ASK = Ask(number=500_000, output=5, limit=500_000)
ROW = {
    "id": "chg_1",
    "hold": f"{hold_nano(ASK) / 10**9:.9f}",
    "amount": f"{cost_nano(500_000, 5) / 10**9:.9f}",
    "measured": "reported",
    "input_tokens": 500_000,
    "output_tokens": 5,
}


@pytest.mark.parametrize(
    ("rows", "unsettled", "served"),
    [
        pytest.param([], [], True, id="a charge is missing"),
        pytest.param([ROW, {**ROW, "id": "chg_2"}], [], True, id="a charge is doubled"),
        pytest.param([{**ROW, "amount": "0.000000001"}], [], True, id="an amount is wrong"),
        pytest.param([{**ROW, "measured": "estimated"}], [], True, id="an answer was told, and is estimated"),
        pytest.param([{**ROW, "hold": "1.00"}], [], True, id="a hold is wrong"),
        pytest.param([], [ROW], True, id="an answer is listed as unsettled"),
        pytest.param([ROW], [ROW], True, id="a charge is listed as unsettled"),
        pytest.param([ROW], [], False, id="what no backend saw is charged"),
    ],
)
def test_the_audit_sees_every_kind_of_fault(
    rows: list[dict[str, Any]], unsettled: list[dict[str, Any]], served: bool
) -> None:
    outcomes, books = [Outcome(ASK, 200, whole=True)], [Served(500_000, 5, 5, whole=True)]
    assert audit(Evidence(outcomes, books, [ROW])).violations == []
    assert audit(Evidence(outcomes, books if served else [], rows, unsettled)).violations != []
