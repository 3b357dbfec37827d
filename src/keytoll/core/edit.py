"""What an edit of a key would do, in plain sentences, before it is made."""

from collections.abc import Sequence
from dataclasses import dataclass

from keytoll.core.holds import Held, KeyHolds
from keytoll.core.keys import Key
from keytoll.core.money import currency_symbol, format_amount
from keytoll.core.months import Calendar, to_datetime
from keytoll.core.quota import QuotaKind, Totals, is_spent, spent_nano


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit, and what is known of its key at `now_us`: what it has spent, and what its requests under way hold."""

    before: Key
    after: Key
    totals: Totals
    holds: KeyHolds
    now_us: int
    calendar: Calendar
    currency: str


def effects(edit: Edit) -> tuple[str, ...]:
    """Return what the edit does, one sentence or two each: limits, what is used and left of them, and from when."""
    found = [*_name(edit), *_disabled(edit), *_quota(edit), *_expiry(edit), *_allowed(edit), *_running(edit)]
    return tuple(found) or ("Nothing changes.",)


def _name(edit: Edit) -> list[str]:
    if edit.before.name == edit.after.name:
        return []
    return [f'The key is called "{edit.after.name}" instead of "{edit.before.name}"; its secret stays the same.']


def _disabled(edit: Edit) -> list[str]:
    before, after = edit.before.disabled, edit.after.disabled
    if after:
        return [
            "The key stays disabled, and refused." if before else "The key is disabled: requests are refused at once."
        ]
    return ["The key is enabled again."] if before else []


def _allowed(edit: Edit) -> list[str]:
    before, after = edit.before, edit.after
    found = []
    if before.allowed_models != after.allowed_models:
        models = after.allowed_models
        found.append(f"It may use {'every model' if models is None else f'only {_listed(models)}'} from now on.")
    if before.allowed_networks != after.allowed_networks:
        networks = after.allowed_networks
        where = "anywhere" if networks is None else f"{_listed(networks.texts)} only"
        found.append(f"It may be used from {where} from now on.")
    return found


# -------------------------------------------------------------------------------------------------------------- quota


def _quota(edit: Edit) -> list[str]:
    if edit.before.quota == edit.after.quota:
        return []
    return [_limit(edit), *_left(edit), _blocked(edit)]


def _limit(edit: Edit) -> str:
    quota = edit.after.quota
    if quota.limit_nano is None:
        return f"No limit applies from now on; what is spent, {_used(edit)} so far, is only counted."
    limit = _money(edit, quota.limit_nano)
    if quota.kind is QuotaKind.TOTAL:
        since = _when(edit, edit.after.created_at_us)
        return f"From now on a limit of {limit} applies to all that the key spends, since its creation at {since}."
    month = edit.calendar.month(edit.now_us)
    since = _when(edit, month.start_us)
    return f"From now on a limit of {limit} applies to each calendar month; this one is counted from {since} on."


def _left(edit: Edit) -> list[str]:
    quota, used_nano = edit.after.quota, _used_nano(edit)
    if quota.limit_nano is None:
        return []
    left_nano = quota.limit_nano - used_nano
    beyond = f", {_money(edit, -left_nano)} beyond it," if left_nano < 0 else ""
    left = f"Of it {_used(edit)} is used{beyond} and {_money(edit, max(left_nano, 0))} remains."
    if quota.kind is QuotaKind.TOTAL:
        return [left, "It never resets."]
    return [left, f"It resets at {_when(edit, _month_end_us(edit))}, and with each month after."]


def _blocked(edit: Edit) -> str:
    before, after = _is_spent_before(edit), _is_spent_after(edit)
    if after:
        blocked = "stays" if before else "is at once"
        return f"The key {blocked} blocked by its quota, {_until(edit)}: requests are refused as insufficient_quota."
    if before:
        return "From now on the key is no longer blocked by its quota."
    return "The key is not blocked by its quota."


def _until(edit: Edit) -> str:
    quota = edit.after.quota
    if quota.kind is QuotaKind.MONTHLY and quota.limit_nano:
        return f"until {_when(edit, _month_end_us(edit))}"
    return "until it is raised"  # a monthly limit of 0 is spent in every month


# ------------------------------------------------------------------------------------------------------------- expiry


def _expiry(edit: Edit) -> list[str]:
    before_us, after_us = edit.before.expires_at_us, edit.after.expires_at_us
    expired_us = None if before_us is None or before_us > edit.now_us else before_us
    if before_us == after_us:
        return [] if expired_us is None else [f"The key stays expired, since {_when(edit, expired_us)}, and refused."]
    again = [] if expired_us is None else [f"Expired since {_when(edit, expired_us)}, it works again from now on."]
    if after_us is None:
        return [*again, "It never expires."]
    return [*again, f"It expires at {_when(edit, after_us)}: requests are refused from then on."]


# ------------------------------------------------------------------------------------------------- requests under way


def _running(edit: Edit) -> list[str]:
    quota = edit.after.quota
    held = edit.holds.counting(quota, edit.calendar.month(edit.now_us).name)
    unchanged = edit.before.quota == quota and edit.before.expires_at_us == edit.after.expires_at_us
    unchanged = unchanged and edit.before.disabled == edit.after.disabled
    if unchanged or held.count == 0:
        return []
    return [_holding(edit, held), *(() if quota.limit_nano is None else _beside(edit, held))]


def _holding(edit: Edit, held: Held) -> str:
    requests = "1 request is" if held.count == 1 else f"{held.count} requests are"
    amount = f"at most {_money(edit, held.amount_nano)}"
    if held.unbounded:
        amount = "what can't be bounded" if held.unbounded == held.count else f"{amount} and what can't be bounded"
    return f"{requests} under way, holding {amount}; what is under way finishes and is charged, whatever is edited."


def _beside(edit: Edit, held: Held) -> list[str]:
    """Tell what the holds mean for a limit: how far spending may go, and what other requests get meanwhile."""
    limit_nano, most_nano = edit.after.quota.limit_nano or 0, _used_nano(edit) + held.amount_nano
    found = []
    if most_nano > limit_nano and not held.unbounded:
        beyond = _money(edit, most_nano - limit_nano)
        found.append(f"With them the spending may reach {_money(edit, most_nano)}, {beyond} beyond the limit.")
    if not _is_spent_after(edit) and (held.unbounded or most_nano >= limit_nano):
        found.append("Until enough of them have finished, further requests are told to try again.")
    return found


# --------------------------------------------------------------------------------------------------------------- words


def _listed(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def _used_nano(edit: Edit) -> int:
    return spent_nano(edit.after.quota, edit.totals, edit.calendar.month(edit.now_us).name)


def _used(edit: Edit) -> str:
    return _money(edit, _used_nano(edit))


def _is_spent_before(edit: Edit) -> bool:
    return is_spent(edit.before.quota, edit.totals, edit.calendar.month(edit.now_us).name)


def _is_spent_after(edit: Edit) -> bool:
    return is_spent(edit.after.quota, edit.totals, edit.calendar.month(edit.now_us).name)


def _month_end_us(edit: Edit) -> int:
    return edit.calendar.month(edit.now_us).end_us


def _money(edit: Edit, nano: int) -> str:
    return currency_symbol(edit.currency) + format_amount(nano)


def _when(edit: Edit, at_us: int) -> str:
    """Return an instant in the billing zone; the fraction is left out."""
    return to_datetime(at_us).astimezone(edit.calendar.zone).isoformat(timespec="seconds")
