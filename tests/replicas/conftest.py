from collections.abc import AsyncIterator

import pytest

from replicas.cluster import CLOCKS_OFF_S, Cluster, cluster_in


@pytest.fixture(scope="package")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Three replicas, whose clocks are up to ten seconds apart. Each test leaves them running and within reach of the store."""
    async with cluster_in(tmp_path_factory.mktemp("cluster"), len(CLOCKS_OFF_S), clocks_off_s=CLOCKS_OFF_S) as cluster:
        yield cluster
