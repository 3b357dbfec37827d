"""PostgreSQL goes away under load and comes back: everything is refused soon, nothing is lost or charged twice."""

import pytest

from replicas.cluster import Cluster
from replicas.outages import WAYS, outage

STALENESS_S = 3.0
_LATE_S = 1.5
"""What an answer may take on a busy machine, of a request that was admitted before."""


@pytest.mark.parametrize("way", WAYS)
async def test_without_postgresql_all_is_refused_soon_and_on_its_return_every_answer_is_charged_once(
    cluster: Cluster, way: str
) -> None:
    done = await outage(cluster, way, away_s=4.5, per_second=60)
    assert done.audit.violations == [], str(done)
    assert done.audit.unsettled == 0, str(done)
    assert done.refused > 0, str(done)
    assert done.admitted_for_s < STALENESS_S + _LATE_S, str(done)
    assert done.charged_before <= done.charged_soon <= done.audit.charged + done.audit.free, str(done)
