"""A roll-out is not seen by callers, nor by the ledger."""

from replicas.cluster import Cluster
from replicas.rolling import roll


async def test_a_rolling_restart_under_load_fails_no_request_and_loses_no_charge(cluster: Cluster) -> None:
    done = await roll(cluster, callers=15, limit="2")
    assert done.violations == [], str(done)
    assert done.unsettled == 0, str(done)
    assert len(done.took_s) == len(cluster.replicas)
