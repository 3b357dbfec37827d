"""Changes as tests make them: by an operator, or straight in a store with an event that tells of them."""

import itertools

from keytoll.core.audit import Action, AuditEvent
from keytoll.core.keys import Key
from keytoll.core.permissions import Actor, Operator
from keytoll.store.base import KeyStore, Once

OPERATOR = Actor(Operator(), "operator.sock")

_numbers = itertools.count(1)


def make_event(
    action: Action = Action.KEY_EDIT,
    *,
    owner: str = "users/alice",
    actor: str = "operator",
    at_us: int = 1_790_000_000_000_000,
) -> AuditEvent:
    """Return an event that no other test has; ids ascend."""
    number = next(_numbers)
    return AuditEvent(f"evt_{number:08d}", at_us, actor, action, owner, f"key_{number}", f"name {number}", "::1")


async def keep_key(store: KeyStore, key: Key, once: Once | None = None) -> None:
    """Create a key, and its owner if need be."""
    event, sign_up = make_event(Action.KEY_CREATE, owner=key.owner), make_event(Action.USER_CREATE, owner=key.owner)
    await store.create_key(key, event=event, sign_up=sign_up, once=once)
