"""What befalls one replica amid a burst. Each fault is over when the call returns, so that the replica can do its part again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from replicas.cluster import Cluster

BEYOND_LEASE_S = 3.7
"""Longer than a replica goes on by what it remembers: KEYTOLL_MAX_STALENESS_S is 3 s unless a test says otherwise."""

Fault = Callable[[Cluster], Awaitable[None]]


async def nothing(_: Cluster) -> None:
    """Leave all as it is."""


async def killed(cluster: Cluster) -> None:
    """Kill Keytoll by SIGKILL, and start it again over the same folders."""
    keytoll = cluster.replicas[-1].keytoll
    await keytoll.kill()
    await keytoll.start()


async def cut_off(cluster: Cluster) -> None:
    """Cut the way to the store, beyond the lease."""
    link = cluster.replicas[-1].link
    link.cut_off()
    await asyncio.sleep(BEYOND_LEASE_S)
    link.restore()


async def silent(cluster: Cluster) -> None:
    """Let the way to the store swallow everything, beyond the lease; what was sent arrives after that."""
    link = cluster.replicas[-1].link
    link.fall_silent()
    await asyncio.sleep(BEYOND_LEASE_S)
    link.restore()


async def slowed(cluster: Cluster) -> None:
    """Let everything to the store and from it take a third of a second."""
    link = cluster.replicas[-1].link
    link.delay(0.3)
    await asyncio.sleep(BEYOND_LEASE_S)
    link.restore()


async def reset(cluster: Cluster) -> None:
    """Reset the connections to the store, again and again."""
    for _ in range(15):
        cluster.replicas[-1].link.reset()
        await asyncio.sleep(0.1)


async def shaken(cluster: Cluster) -> None:
    """Reset the connections of one replica after another, while everything to the store and from it takes its time."""
    for number in range(30):
        link = cluster.replicas[number % len(cluster.replicas)].link
        link.delay(0.02 * (number % 4))
        link.reset()
        await asyncio.sleep(0.1)
    for replica in cluster.replicas:
        replica.link.restore()


async def frozen(cluster: Cluster) -> None:
    """Stop Keytoll by SIGSTOP beyond its lease, then let it go on."""
    replica = cluster.replicas[-1]
    replica.freeze()
    await asyncio.sleep(BEYOND_LEASE_S)
    replica.thaw()


FAULTS: Mapping[str, Fault] = {
    fault.__name__: fault for fault in (nothing, killed, cut_off, silent, slowed, reset, shaken, frozen)
}
