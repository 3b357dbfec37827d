"""A simple model of keys and money, in exact rational arithmetic, which imports nothing of the product.

It is told what happens, in the order that it happens: what is asked, what Envoy logs, what the ledger's rows say. It
raises Violation as soon as one of the promises about money is broken:

* A request is admitted only if its key is there, unexpired and unspent, and if either its worst case fits into
  `limit - spent - held`, or nothing of the key is held. What is refused is refused by the same rule.
* A decision has one charge, or one unsettled row and at most one correction of it, and nothing that wasn't told. Each
  row has the amount, the month and the prices that the model finds by itself.
* Under an unchanged quota, what a key has spent and what its bounded requests under way hold is at every moment at most

      base + one + extra

  `base`: the limit, or what was spent and held already when the quota was set, if that was more; and what unbounded
  requests of that time were charged later. `one`: the dearest single request that was admitted since though it was not
  certain to fit, since nothing else was held. `extra`: what backends reported beyond a request's worst case, and what
  was corrected after a hold had been given up as unsettled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil
from zoneinfo import ZoneInfo

MILLION = 1_000_000
LARGEST_BODY = 32 * 2**20
LARGEST_HOLD = 2**63 - 1
INPUTS = ("input", "cached_input", "cache_write", "audio_input")
OUTPUTS = ("output", "audio_output")

Price = Mapping[str, int]
"""Nano-units: of a million tokens by class, and of a `request`."""


class Violation(AssertionError):
    """A promise about money that was broken."""


def require(holds: bool, broken: str) -> None:
    """Raise Violation unless the promise holds."""
    if not holds:
        raise Violation(broken)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the model knows of an endpoint: its contexts, what it generates, and whether bytes tell of its tokens."""

    inputs: str
    outputs: bool = True
    text_in: bool = True
    text_out: bool = True


ENDPOINTS = {
    "chat/completions": Endpoint("one"),
    "completions": Endpoint("unbounded"),
    "embeddings": Endpoint("many", outputs=False, text_out=False),
    "rerank": Endpoint("pairs", outputs=False, text_out=False),
    "audio/speech": Endpoint("one", text_out=False),
}


@dataclass(frozen=True, slots=True)
class Served:
    """A model as the catalog has it. `prices` are versions by the instant (us) that they apply from, in that order.

    `rates` are thousandths of a token, for an input byte, an output byte and an event of a stream.
    """

    context: int
    maximum_output: int
    template: int
    beyond: int
    media: bool
    rates: tuple[int, int, int]
    prices: tuple[tuple[int, Price], ...]

    def price_at(self, at_us: int) -> Price:
        """Return the price of a request that is admitted at the instant."""
        begun = [price for from_us, price in self.prices if from_us <= at_us]
        return begun[-1] if begun else self.prices[0][1]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it is asked. `body_bytes` is None where the length isn't declared."""

    endpoint: str
    body_bytes: int | None
    limits: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. `tokens` by class, None where the backend reported none."""

    status: int
    attempts: int
    tokens: Mapping[str, int] | None
    output_told: bool
    request_bytes: int
    answer_bytes: int
    events: int | None


@dataclass(frozen=True, slots=True)
class Limit:
    """A quota: `unlimited`, `monthly` or `total`, and nano-units unless it is unlimited."""

    kind: str
    nano: int | None = None

    def scope(self, month: str) -> str:
        """Return what it counts: a month, or "" for the whole life."""
        return month if self.kind == "monthly" else ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger."""

    kind: str
    decision: str
    key: str
    owner: str
    month: str
    amount_nano: int
    measured: str
    status: int
    attempts: int
    price: Price
    refers_to_kind: str | None


@dataclass(slots=True)
class Decision:
    """An admitted request: `versions` are what Envoy tells of it, `rows` the kinds of its rows in the ledger."""

    key: str
    month: str
    endpoint: str
    price: Price
    hold_nano: int | None
    rates: tuple[int, int, int]
    versions: list[Outcome] = field(default_factory=list)
    logged: bool = False
    voided: bool = False
    swept: bool = False
    rows: list[str] = field(default_factory=list)
    charged_nano: int = 0


@dataclass(slots=True)
class Bound:
    """What a key may have spent and hold under one quota."""

    base_nano: int
    inherited: set[str]
    one_nano: int = 0
    extra_nano: int = 0

    @property
    def most_nano(self) -> int:
        """The sum."""
        return self.base_nano + self.one_nano + self.extra_nano


@dataclass(slots=True)
class Account:
    """A key. `limits` holds two while an edit is under way; `held` the ids of what is under way, as Keytoll knows it.

    `unheard` are the decisions with a charge in the ledger of which Keytoll has not heard yet that it is there.
    """

    owner: str
    limits: list[Limit]
    expires_at_us: int | None = None
    deleted: bool = False
    maybe_deleted: bool = False
    spent_nano: dict[str, int] = field(default_factory=dict)
    held: dict[str, None] = field(default_factory=dict)
    unheard: dict[str, None] = field(default_factory=dict)
    bounds: dict[str, Bound] = field(default_factory=dict)

    def spent_in(self, scope: str) -> int:
        """Return what the ledger has in a month, or in all of them for the scope ""."""
        return self.spent_nano.get(scope, 0) if scope else sum(self.spent_nano.values())


class Model:
    """All accounts and decisions of one run."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self.accounts: dict[str, Account] = {}
        self.decisions: dict[str, Decision] = {}
        self.owners_nano: dict[tuple[str, str], int] = {}

    # --- what is asked ---

    def verdicts(self, key: str, asked: Asked, served: Served, now_us: int) -> set[str]:
        """Return what may be answered: `allowed`, `held`, `spent`, `expired`, `unknown`.

        It is one, unless a change of the key is under way, or rows of it that Keytoll has not heard of yet.
        """
        account, month = self.accounts[key], self.month(now_us)
        worst_nano = worst_case(asked, served, served.price_at(now_us))
        found = {
            _verdict(account, self._held(account, limit.scope(month)), limit, spent_nano, worst_nano, now_us)
            for limit in account.limits
            for spent_nano in (account.spent_in(limit.scope(month)), self._heard_of(account, limit.scope(month)))
        }
        if account.deleted:
            return {"unknown"}
        if {"allowed", "spent"} <= found:
            found.add("held")  # between the two there may be another one
        return found | {"unknown"} if account.maybe_deleted else found

    def admit(
        self, decision: str, *, key: str, asked: Asked, served: Served, now_us: int, told: Mapping[str, object]
    ) -> None:
        """Judge an admission, `told` being what Check says of it, and hold it."""
        require("allowed" in self.verdicts(key, asked, served, now_us), f"{key} was admitted against the rules")
        account, month, price = self.accounts[key], self.month(now_us), served.price_at(now_us)
        worst_nano = worst_case(asked, served, price)
        expected = {
            "owner": account.owner,
            "month": month,
            "hold": worst_nano,
            "at_us": now_us,
            "rates": served.rates,
            "price": dict(price),
        }
        require(dict(told) == expected, f"an admission of {key} says {told}, and should {expected}")
        require(decision not in self.decisions, "a decision id was used twice")
        self._raise_one(account, month, worst_nano)
        self.decisions[decision] = Decision(key, month, asked.endpoint, price, worst_nano, served.rates)
        account.held[decision] = None
        self._check_bounds(account)

    def let_go(self, decision: str, *, sweeping: bool) -> None:
        """Note that the decision came to nothing: it is not held any more, and will have no row.

        With `sweeping` it may just be given up as unsettled, which can't be stopped.
        """
        self.decisions[decision].voided, self.decisions[decision].swept = True, sweeping
        self.accounts[self.decisions[decision].key].held.pop(decision, None)

    def hold_again(self, decision: str) -> None:
        """Note that a hold that was let go is back, since the note of that was lost in a crash."""
        self.decisions[decision].voided = False
        self.accounts[self.decisions[decision].key].held[decision] = None

    def unmake(self, decision: str) -> None:
        """Forget an admission that was neither kept nor answered."""
        del self.accounts[self.decisions.pop(decision).key].held[decision]

    # --- what changes ---

    def begin_edit(self, key: str, limit: Limit) -> None:
        """Note that the quota is about to change."""
        self.accounts[key].limits.append(limit)

    def end_edit(self, key: str, limit: Limit, *, deleted: bool) -> None:
        """Note which quota a key has after an edit, or that it is deleted. From now on that alone is in force."""
        account = self.accounts[key]
        require(limit in account.limits, f"{key} has a quota that nobody gave it")
        changed = len(account.limits) > 1
        account.limits, account.deleted, account.maybe_deleted = [limit], deleted, False
        if changed:
            account.bounds.clear()

    # --- what the ledger holds ---

    def post(self, row: Row) -> None:
        """Judge a new row of the ledger, and count it."""
        decision = self.decisions.get(row.decision)
        if decision is None:
            raise Violation(f"a row for a decision that was never made: {row}")
        account = self.accounts[decision.key]
        require((row.key, row.owner, row.month) == (decision.key, account.owner, decision.month), f"misplaced: {row}")
        require(row.price == decision.price, f"{row} has another price than at its admission: {decision.price}")
        _check_kind(row, decision)
        if row.kind == "unsettled":
            require((row.amount_nano, row.measured) == (0, "none"), f"an unsettled row costs something: {row}")
        else:
            self._charge(row, decision, account)
        decision.rows.append(row.kind)
        self._check_bounds(account)

    def hear(self, charged: Sequence[str], given_up: Sequence[str]) -> None:
        """Note that Keytoll has heard that these decisions are in the ledger; it holds them no more.

        Of one that was given up first and charged then it may not have heard yet that it was charged.
        """
        for id_ in (*charged, *given_up):
            account = self.accounts[self.decisions[id_].key]
            account.held.pop(id_, None)
            if id_ in charged or self.decisions[id_].rows[0] != "unsettled":
                account.unheard.pop(id_, None)

    def restart(self) -> None:
        """Note that Keytoll has begun anew: it holds what has no row, and knows what the ledger knows."""
        for account in self.accounts.values():
            account.unheard.clear()
            account.held = {id_: None for id_ in account.held if not self.decisions[id_].rows}

    # --- what must be true ---

    def held_now(self, key: str) -> dict[str, tuple[int, int, int]]:
        """Return the count, the sum and the unbounded ones of what is held, by month."""
        account = self.accounts[key]
        months = {self.decisions[id_].month for id_ in account.held}
        return {month: self._held(account, month) for month in months}

    def check_end(self) -> None:
        """Check that all is settled: each decision that was logged has its charge, and each other one is given up."""
        for id_, decision in self.decisions.items():
            charges = [kind for kind in decision.rows if kind != "unsettled"]
            came_to_something = not decision.voided or (decision.swept and decision.rows == ["unsettled"])
            require(
                bool(decision.rows) == came_to_something, f"{id_} has a row just if it came to something: {decision}"
            )
            require(len(charges) == 1 or not decision.logged, f"{id_} was logged and is not charged")
            require(len(decision.rows) <= 2, f"{id_} has too many rows")
        for key, account in self.accounts.items():
            require(not account.held and not account.unheard, f"{key} holds something in the end")
            self._check_bounds(account)

    def month(self, at_us: int) -> str:
        """Return the month of the billing zone, by the calendar on the wall."""
        local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)).astimezone(self.zone)
        return f"{local.year:04d}-{local.month:02d}"

    # --- within ---

    def _held(self, account: Account, scope: str) -> tuple[int, int, int]:
        held = [self.decisions[id_] for id_ in account.held]
        holds = [decision.hold_nano for decision in held if not scope or decision.month == scope]
        return len(holds), sum(hold for hold in holds if hold is not None), holds.count(None)

    def _heard_of(self, account: Account, scope: str) -> int:
        unheard = [self.decisions[id_] for id_ in account.unheard]
        return account.spent_in(scope) - sum(d.charged_nano for d in unheard if not scope or d.month == scope)

    def _charge(self, row: Row, decision: Decision, account: Account) -> None:
        told = [
            version for version in decision.versions if (version.status, version.attempts) == (row.status, row.attempts)
        ]
        require(bool(told), f"a charge for what nobody told: {row}")
        expected = charge(told[0], decision)
        require((row.amount_nano, row.measured) == expected, f"{row} should be {expected}, for {told[0]} of {decision}")
        self._raise_bound(row, decision, account)
        decision.charged_nano = row.amount_nano
        account.spent_nano[row.month] = account.spent_nano.get(row.month, 0) + row.amount_nano
        account.unheard[row.decision] = None
        owner = (account.owner, row.month)
        self.owners_nano[owner] = self.owners_nano.get(owner, 0) + row.amount_nano

    def _bound(self, account: Account, month: str) -> Bound | None:
        """Return the bound that counts for a month; None where there is none, or two are as good."""
        limit = account.limits[0]
        if len(account.limits) > 1 or limit.nano is None:
            return None
        scope = limit.scope(month)
        if scope not in account.bounds:
            spent_nano, waiting = account.spent_in(scope), self._waiting(account, scope)
            held_nano = sum(self.decisions[id_].hold_nano or 0 for id_ in waiting)
            unbounded = {id_ for id_ in waiting if self.decisions[id_].hold_nano is None}
            account.bounds[scope] = Bound(max(limit.nano, spent_nano + held_nano), unbounded)
        return account.bounds[scope]

    def _waiting(self, account: Account, scope: str) -> list[str]:
        """Return what is under way and has no row yet."""
        held = {id_: self.decisions[id_] for id_ in account.held}
        return [id_ for id_, decision in held.items() if not decision.rows and (not scope or decision.month == scope)]

    def _raise_one(self, account: Account, month: str, worst_nano: int | None) -> None:
        bound, limit = self._bound(account, month), account.limits[0]
        if bound is None or worst_nano is None:
            return
        held_nano, spent_nano = self._held(account, limit.scope(month))[1], self._heard_of(account, limit.scope(month))
        if limit.nano is not None and spent_nano + held_nano + worst_nano > limit.nano:
            bound.one_nano = max(bound.one_nano, worst_nano)

    def _raise_bound(self, row: Row, decision: Decision, account: Account) -> None:
        bound = self._bound(account, decision.month)
        if bound is None:
            return
        if decision.rows:
            bound.extra_nano += row.amount_nano
        elif decision.hold_nano is not None:
            bound.extra_nano += max(0, row.amount_nano - decision.hold_nano)
        elif row.decision in bound.inherited:
            bound.base_nano += row.amount_nano
        else:
            bound.one_nano = max(bound.one_nano, row.amount_nano)

    def _check_bounds(self, account: Account) -> None:
        if len(account.limits) > 1 or account.limits[0].nano is None:
            return
        for scope, bound in account.bounds.items():
            held_nano = sum(self.decisions[id_].hold_nano or 0 for id_ in self._waiting(account, scope))
            all_nano = account.spent_in(scope) + held_nano
            require(all_nano <= bound.most_nano, f"{all_nano} spent and held of {account.limits}: {bound}")


def _verdict(
    account: Account, held: tuple[int, int, int], limit: Limit, spent_nano: int, worst_nano: int | None, now_us: int
) -> str:
    count, held_nano, unbounded = held
    if account.expires_at_us is not None and now_us >= account.expires_at_us:
        return "expired"
    if limit.nano is None:
        return "allowed"
    if spent_nano >= limit.nano:
        return "spent"
    fits = worst_nano is not None and not unbounded and spent_nano + held_nano + worst_nano <= limit.nano
    return "allowed" if count == 0 or fits else "held"


def _check_kind(row: Row, decision: Decision) -> None:
    given_up = decision.rows == ["unsettled"]
    require(not decision.rows or given_up, f"a decision has another row already: {row}, {decision.rows}")
    require(row.kind != "unsettled" or not given_up, f"a decision is given up twice: {row}")
    require((row.kind == "correction") == given_up or row.kind == "unsettled", f"not the kind it should be: {row}")
    require((row.refers_to_kind == "unsettled") == (row.kind == "correction"), f"it corrects nothing: {row}")


def worst_case(asked: Asked, served: Served, price: Price) -> int | None:
    """Return the most that a request can cost, in nano-units, None where that can't be bounded."""
    endpoint, body = ENDPOINTS[asked.endpoint], LARGEST_BODY if asked.body_bytes is None else asked.body_bytes
    each, some = served.context if served.media else served.template, body // 3 + 1
    if endpoint.inputs == "unbounded":
        return None
    if endpoint.inputs == "pairs":
        read = body + body * body // 12 + some * served.template
    elif endpoint.inputs == "many":
        read = body + some * each
    else:
        read = served.context if served.media else min(served.context, body + served.template)
    written = 0
    if endpoint.outputs:
        limit = max(asked.limits, default=0)
        written = (min(limit, served.context) or served.maximum_output) + served.beyond
        written *= max((1, *asked.answers))
    tokens_nano = read * Fraction(max(price[name] for name in INPUTS), MILLION)
    tokens_nano += written * Fraction(max(price[name] for name in OUTPUTS), MILLION)
    return min(ceil(tokens_nano) + price["request"], LARGEST_HOLD)


def charge(told: Outcome, decision: Decision) -> tuple[int, str]:
    """Return what a request costs, in nano-units, and how its tokens were measured."""
    if told.status >= 400 or (told.status == 0 and told.attempts == 0):
        return 0, "none"
    endpoint, (input_rate, output_rate, event_rate) = ENDPOINTS[decision.endpoint], decision.rates
    delivered = 0
    if endpoint.outputs and endpoint.text_out:
        count, rate = (told.answer_bytes, output_rate) if told.events is None else (told.events, event_rate)
        delivered = ceil(Fraction(count * rate, 1000))
    if told.tokens is None:
        read = ceil(Fraction(told.request_bytes * input_rate, 1000)) if endpoint.text_in else 0
        tokens, measured = {"input": read, "output": delivered}, "estimated" if read or delivered else "none"
    elif delivered and not told.output_told:
        tokens, measured = {**told.tokens, "output": delivered}, "estimated"
    else:
        tokens, measured = dict(told.tokens), "reported"
    exact_nano = sum((Fraction(count * decision.price[name], MILLION) for name, count in tokens.items()), Fraction(0))
    amount_nano = round(exact_nano + decision.price["request"])  # a Fraction rounds half to even
    if measured != "reported" and decision.hold_nano is not None:
        amount_nano = min(amount_nano, decision.hold_nano)
    return amount_nano, measured
