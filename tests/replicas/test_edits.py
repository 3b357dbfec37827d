"""Two replicas that change one key at the same time: neither change is lost, and a key that is gone stays gone."""

import asyncio
from collections import Counter

import httpx

from replicas.cluster import Cluster

ROUNDS = 8


async def test_changes_of_one_key_at_two_replicas_at_once_are_both_made(cluster: Cluster) -> None:
    key = await cluster.new_key()
    first, second, _ = cluster.replicas
    async with first.operator() as one, second.operator() as other:
        for number in range(1, ROUNDS + 1):
            name, limit = f"edited {number}", f"{number}.00"
            answers = await asyncio.gather(
                one.patch(f"/api/v1/keys/{key['id']}", json={"name": name}),
                other.patch(f"/api/v1/keys/{key['id']}", json={"quota": {"kind": "total", "limit": limit}}),
            )
            assert [answer.status_code for answer in answers] == [200, 200]
            for operator in (one, other):
                told = (await operator.get(f"/api/v1/keys/{key['id']}")).json()
                assert (told["name"], told["quota"]["limit"]) == (name, limit)


async def test_of_two_that_delete_or_rotate_a_key_at_once_each_is_told_what_came_of_it(cluster: Cluster) -> None:
    first, second, _ = cluster.replicas
    async with first.operator() as one, second.operator() as other:
        ended: Counter[int] = Counter()
        for _ in range(ROUNDS):
            key = await cluster.new_key()
            deleted, rotated = await asyncio.gather(_delete(one, key["id"]), _rotate(other, key["id"]))
            assert deleted == 204
            ended[rotated] += 1
            for operator in (one, other):
                assert (await operator.get(f"/api/v1/keys/{key['id']}")).status_code == 404
        assert set(ended) <= {200, 404, 409}


async def _delete(operator: httpx.AsyncClient, key_id: str) -> int:
    return (await operator.delete(f"/api/v1/keys/{key_id}")).status_code


async def _rotate(operator: httpx.AsyncClient, key_id: str) -> int:
    return (await operator.post(f"/api/v1/keys/{key_id}/rotate", json={})).status_code
