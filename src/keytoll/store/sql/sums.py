"""What charges add to the running totals and to usage, and when their keys were used."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from keytoll.core.ledger import Charge
from keytoll.core.money import add_totals
from keytoll.core.quota import Totals
from keytoll.core.usage import Sums
from keytoll.store.sql.rows import LIFETIME

Account = tuple[str, str]
"""What a total counts for: a subject (the id of a key, or an owner) and a month or LIFETIME."""

Group = tuple[str, str, str, str]
"""What usage is summed by: owner, day, key and model."""


def by_account(charges: Iterable[Charge]) -> Mapping[Account, int]:
    """Return what the charges add to each account. Raises OverflowError where that alone is beyond 64 bits."""
    alike_nano: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for charge in charges:
        entry = charge.entry
        alike_nano[entry.key_id, entry.owner, entry.month] += charge.amount_nano
    added_nano: defaultdict[Account, int] = defaultdict(int)
    for (key_id, owner, month), amount_nano in alike_nano.items():
        for account in ((key_id, LIFETIME), (key_id, month), (owner, month)):
            added_nano[account] = add_totals(added_nano[account], amount_nano)
    return added_nano


def by_group(charges: Iterable[Charge]) -> Mapping[Group, Sums]:
    """Return what the charges add to the usage of each owner, day, key and model."""
    groups: defaultdict[Group, list[Charge]] = defaultdict(list)
    for charge in charges:
        entry = charge.entry
        groups[entry.owner, charge.day, entry.key_id, entry.model].append(charge)
    return {group: Sums.of(charges) for group, charges in groups.items()}


def newest_admissions(charges: Iterable[Charge]) -> Iterable[Mapping[str, str | int]]:
    """Return, for each key, its newest admission among the charges, as USE_KEY takes it."""
    newest_us: dict[str, int] = {}
    for charge in charges:
        entry = charge.entry
        if entry.admitted_at_us >= newest_us.get(entry.key_id, 0):
            newest_us[entry.key_id] = entry.admitted_at_us
    return [{"id": key_id, "at_us": at_us} for key_id, at_us in newest_us.items()]


def totals_of_keys(charges: Iterable[Charge], spent_nano: Mapping[Account, int]) -> Mapping[str, Totals]:
    """Return the totals of the charged keys, of the months that were charged, from what each account has spent now."""
    months: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for key_id, month in {(charge.entry.key_id, charge.entry.month) for charge in charges}:
        months[key_id][month] = spent_nano[key_id, month]
    return {key_id: Totals(spent_nano[key_id, LIFETIME], by_month) for key_id, by_month in months.items()}
