"""Check answers from memory, however far the store is."""

from statistics import median

import pytest

from replicas.cluster import Cluster
from replicas.slow_store import DELAY_S, KINDS, slow_down


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_of_a_key_in_memory_does_not_wait_for_the_store(cluster: Cluster, kind: str) -> None:
    """One way to the store takes longer than most requests do in all."""
    done = await slow_down(cluster, kind, requests=60)
    assert done.statuses == {200}
    assert done.rows == 10 + 2 * 60
    assert median(done.far_s) < median(done.near_s) + DELAY_S / 3, str(done)
