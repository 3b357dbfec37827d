"""Allowances: how several replicas share what is left of a key's limit, each admitting from its own part in memory.

> What a key has spent and what its replicas were granted never pass its limit together.

A replica's grant covers what its requests under way hold and what it may still admit. A charge takes from the grant of
the replica that admitted it exactly what it adds to what is spent, so settlement changes nothing for the others. Only
the store grants. So the bound of `core.holds` holds across replicas.

A grant belongs to a month, as the requests that it covers do.
"""

from enum import StrEnum
from typing import NamedTuple

from keytoll.core.worst_case import UNBOUNDED


class Allowance(NamedTuple):
    """What a replica may hold of a key in a month, in nano-units.

    `whole`: it is all that is left of the limit, and nobody else has any. Then the replica admits by the rule of one that
    is alone, which lets a request through that may cost more.
    """

    granted_nano: int = 0
    whole: bool = False


NOTHING_GRANTED = Allowance()


class Ask(NamedTuple):
    """What a replica asks for: so much that beside the `held_nano` of its `holds` requests under way, which count towards
    the quota, one of `least_nano` can run (None: it can't be bounded), and better all of those who wait, `wanted_nano`."""

    holds: int
    held_nano: int
    least_nano: int | None
    wanted_nano: int


class Outcome(StrEnum):
    """How the store answers: `granted`, `held` by others, who are asked to give back what they don't use, or `spent`."""

    GRANTED = "granted"
    HELD = "held"
    SPENT = "spent"


class Grant(NamedTuple):
    """What the store adds to a replica's grant, and whether it then has the whole remainder."""

    outcome: Outcome
    more_nano: int = 0
    whole: bool = False


def grant(ask: Ask, *, limit_nano: int, spent_nano: int, own_nano: int, others_nano: int, replicas: int) -> Grant:
    """Decide what a replica gets of a key's remainder.

    `own_nano` is what it has, `others_nano` all else that is granted and counts towards the quota, `replicas` how many
    there are. A grant is what is needed, or, where much is left, half of an equal share: so it shrinks with the
    remainder, and there is something left for those who ask later.
    """
    if spent_nano >= limit_nano:
        return Grant(Outcome.SPENT)
    left_nano = max(0, limit_nano - spent_nano - own_nano - others_nano)
    alone = others_nano == 0
    if ask.least_nano is not UNBOUNDED:
        needed_nano = max(0, ask.held_nano + ask.least_nano - own_nano)
        if needed_nano <= left_nano:
            wanted_nano = max(needed_nano, ask.held_nano + ask.wanted_nano - own_nano, left_nano // (2 * replicas))
            more_nano = min(wanted_nano, left_nano)
            return Grant(Outcome.GRANTED, more_nano, whole=alone and more_nano == left_nano)
    if alone and ask.holds == 0:
        return Grant(Outcome.GRANTED, left_nano, whole=True)
    return Grant(Outcome.HELD)


def after_charges(granted_nano: int, charged_nano: int) -> int:
    """Return what is left of a grant once the charges of requests that it covered are in the ledger."""
    return max(0, granted_nano - charged_nano)
