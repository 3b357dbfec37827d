"""The bound of a key's spending holds over all replicas, whatever befalls one of them."""

import pytest

from replicas.bursts import WORST, burst
from replicas.cluster import Cluster


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("killed", "monthly"), ("silent", "total"), ("reset", "monthly"), ("frozen", "total")],
)
async def test_a_burst_over_all_replicas_spends_the_limit_and_at_most_a_request_more(
    cluster: Cluster, fault: str, kind: str
) -> None:
    """All that the backend answered is charged once, and what is left can be spent."""
    done = await burst(cluster, fault, kind=kind, callers=90)
    assert done.violations == [], str(done)


@pytest.mark.parametrize("worth", [10, 0.5])
async def test_where_each_costs_what_it_holds_as_many_get_through_as_the_key_is_worth_and_at_least_one(
    cluster: Cluster, worth: float
) -> None:
    done = await burst(cluster, "nothing", kind="total", callers=45, worth=worth, output=WORST)
    assert done.violations == [], str(done)
    assert done.answered == max(1, worth), str(done)
