"""Nothing is admitted at any replica that was sent after a key's end was answered, or after what the answer tells."""

from pathlib import Path

import pytest

from replicas.cluster import Cluster, cluster_in
from replicas.endings import DEADLINE_S, WAYS, end_under_load, end_while_apart


async def test_no_replica_admits_what_was_sent_after_an_end_was_answered(cluster: Cluster) -> None:
    done = await end_under_load(cluster, keys_of_a_kind=3, callers_of_a_key=1)
    assert done.violations == [], str(done)
    assert done.admitted_after == 0, str(done)
    assert max(max(took_s) for took_s in done.took_s.values()) < DEADLINE_S, str(done)


@pytest.mark.parametrize(("way", "kind"), list(zip(WAYS, ("deleted", "rotated", "limit lowered"), strict=True)))
async def test_an_end_is_answered_once_a_replica_that_is_out_of_reach_admits_no_more(
    cluster: Cluster, way: str, kind: str
) -> None:
    """It refuses by itself when its lease is over, and knows of the end as soon as it is back."""
    done = await end_while_apart(cluster, kind, way, deadline_s=DEADLINE_S, staleness_s=3)
    assert done.violations == [], str(done)
    assert done.ending.not_yet == []
    assert done.refused_away > 0


async def test_an_answer_that_can_not_wait_for_a_lease_names_the_replica_and_until_when_it_may_admit(
    tmp_path: Path,
) -> None:
    environment = {"KEYTOLL_MAX_STALENESS_S": "4", "KEYTOLL_REVOCATION_DEADLINE_S": "1"}
    async with cluster_in(tmp_path, 2, environment=environment) as cluster:
        done = await end_while_apart(cluster, "deleted", "cut off", deadline_s=1, staleness_s=4)
    assert done.violations == [], str(done)
    assert done.ending.status == 202
    (not_yet,) = done.ending.not_yet
    assert not_yet.until > (done.ending.ended_at or not_yet.until)
    assert done.last_admitted_at is not None
    assert done.ending.ended_at is not None
    assert done.ending.ended_at < done.last_admitted_at <= not_yet.until
