"""What Check tells of a decision: its id, and in one text the facts that come back in the log."""

from collections.abc import Mapping

NAMES = (
    "admitted_at_us",
    "hold_nano",
    "key_id",
    "owner",
    "model",
    "endpoint",
    "month",
    "price_id",
    "prices",
    "rates",
)


def told(facts: Mapping[str, str]) -> dict[str, str]:
    """Return facts as Check tells them."""
    return {"decision_id": facts["decision_id"], "entry": "|".join(facts[name] for name in NAMES)}


def named(told: Mapping[str, str]) -> dict[str, str]:
    """Return the facts that Check told, by their names."""
    return {"decision_id": told["decision_id"], **dict(zip(NAMES, told["entry"].split("|"), strict=True))}
