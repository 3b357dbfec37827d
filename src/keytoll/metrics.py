"""What Prometheus scrapes. Every label has a bounded set of values: no key, owner, path or free text is one."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from keytoll import __version__
from keytoll.core.allowance import Outcome
from keytoll.core.decision import Reason
from keytoll.core.ledger import Charge, Measured
from keytoll.core.money import NANO
from keytoll.core.pricing import Usage, tokens_of

_CHECK_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
_API_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10)
_REVOCATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_LAG_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)
_MAX_MODELS = 200

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series, and Prometheus needs none of them
_TOKEN_CLASSES = tuple(f.name for f in fields(Usage))


class Checks(Collector):
    """What every Check counts: its reason, how long it took, and whether its key was in memory.

    Plain numbers, which one event loop alone changes: to count by the library's locks would cost a tenth of a Check.
    """

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self._reasons = dict.fromkeys(Reason, 0)
        self._durations = {kind: _Durations(_CHECK_BUCKETS) for kind in ("key", "full")}

    def count(self, kind: str, reason: Reason | None, seconds: float) -> None:
        """Count a Check that was answered; the headers-only one has no reason unless it refuses."""
        if reason is not None:
            self._reasons[reason] += 1
        self._durations[kind].count(seconds)

    def collect(self) -> Iterator[Metric]:
        """Tell what was counted."""
        decisions = CounterMetricFamily("keytoll_decisions", "Checks answered, by reason.", labels=["reason"])
        for reason, number in self._reasons.items():
            decisions.add_metric([reason.value], number)
        yield decisions
        lookups = CounterMetricFamily("keytoll_key_cache_lookups", "Key lookups, by result.", labels=["result"])
        lookups.add_metric(["hit"], self.hits)
        lookups.add_metric(["miss"], self.misses)
        yield lookups
        yield self._histogram()

    def _histogram(self) -> HistogramMetricFamily:
        text = "Time from receiving a Check to its answer."
        family = HistogramMetricFamily("keytoll_check_duration_seconds", text, labels=["kind"])
        for kind, durations in self._durations.items():
            if any(durations.numbers):
                family.add_metric([kind], durations.buckets, durations.seconds)
        return family


class Lags(Collector):
    """How long settlement took, counted as `Checks` are."""

    def __init__(self) -> None:
        self._durations = _Durations(_LAG_BUCKETS)
        self.count = self._durations.count

    def collect(self) -> Iterator[Metric]:
        """Tell what was counted."""
        text = "Time from the end of a request to its charge."
        family = HistogramMetricFamily("keytoll_settlement_lag_seconds", text, labels=[])
        family.add_metric([], self._durations.buckets, self._durations.seconds)
        yield family


class _Durations:
    """How many durations were at most each of some bounds, in seconds, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.numbers = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def count(self, seconds: float) -> None:
        """Count one."""
        self.numbers[bisect_left(self._bounds, seconds)] += 1
        self.seconds += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """The bounds and how many were at most each, as Prometheus tells them."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.numbers), strict=True))


class Metrics:
    """All metrics of one Keytoll, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._models: set[str] = set()
        Gauge("keytoll_build_info", "Version of Keytoll; always 1.", ["version"], registry=registry).labels(
            __version__
        ).set(1)
        self.checks = Checks()
        registry.register(self.checks)
        self.requests = Counter(
            "keytoll_settled_requests",
            "Requests settled, by model and by how their usage was measured.",
            ["model", "measured"],
            registry=registry,
        )
        self.tokens = Counter(
            "keytoll_tokens",
            "Tokens settled, by model and class; reasoning is part of output.",
            ["model", "class"],
            registry=registry,
        )
        self.amount = Counter(
            "keytoll_charged_amount",
            "Amount charged, in the deployment's currency; for graphs, the ledger is exact.",
            ["model"],
            registry=registry,
        )
        self.entries = Counter(
            "keytoll_log_entries",
            "Log entries read, by outcome: settled, repeated (no effect), conflicting or unreadable (kept out).",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("settled", "repeated", "conflicting", "unreadable"):
            self.entries.labels(outcome)
        self.unsettled = Counter(
            "keytoll_unsettled_decisions",
            "Decisions whose log entry never came; any is a loss to look into.",
            registry=registry,
        )
        self.unsettled_open = Gauge(
            "keytoll_unsettled_open_decisions",
            "Unsettled decisions in the ledger that no later entry has corrected.",
            registry=registry,
        )
        self.beyond_hold = Counter(
            "keytoll_charges_beyond_worst_case",
            "Charges of more than was held: a backend reported more than the catalog says it can.",
            registry=registry,
        )
        self.holds = Gauge("keytoll_holds", "Admitted requests that are not settled yet.", registry=registry)
        self.settlement_lag = Lags()
        registry.register(self.settlement_lag)
        self.store_errors = Counter("keytoll_store_errors", "Calls that the store could not serve.", registry=registry)
        self.journal_position = Gauge(
            "keytoll_journal_position_bytes", "Bytes of the newest journal file that are settled.", registry=registry
        )
        self.journal_lag = Gauge(
            "keytoll_journal_lag_bytes", "Bytes in the journal that are not settled yet.", registry=registry
        )
        self.journal_segments = Gauge(
            "keytoll_journal_segments", "Files of the journal that are on disk.", registry=registry
        )
        self.journal_disk_free = Gauge(
            "keytoll_journal_disk_free_bytes",
            "Bytes left on the fullest of the disks that hold the journal and the admissions.",
            registry=registry,
        )
        self.envoy_log_write_failures = Counter(
            "keytoll_envoy_log_write_failures",
            "Writes to its log in which Envoy failed: entries were lost.",
            registry=registry,
        )
        self.admission_blocked = Gauge(
            "keytoll_admission_blocked",
            "Whether every Check is answered with 503, since what it admits might not be charged.",
            registry=registry,
        )
        self.cache_size = Gauge(
            "keytoll_key_cache_entries", "Keys in the cache, unknown ones included.", registry=registry
        )
        self.api_seconds = Histogram(
            "keytoll_api_request_duration_seconds",
            "Time to answer a request of the console or the management API, by operation and status.",
            ["operation", "status"],
            buckets=_API_BUCKETS,
            registry=registry,
        )
        self.sign_ins = Counter(
            "keytoll_api_authentications",
            "Access tokens shown, by outcome: accepted, refused, or limited, since their source had guessed too often.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("accepted", "refused", "limited"):
            self.sign_ins.labels(outcome)
        self.catalog_reloads = Counter(
            "keytoll_catalog_reloads", "Changes of the catalog, by outcome.", ["outcome"], registry=registry
        )
        for outcome in ("accepted", "refused"):
            self.catalog_reloads.labels(outcome)
        self.replicas = Gauge(
            "keytoll_replicas", "Replicas that share the store and are alive, this one included.", registry=registry
        )
        self.replica_fresh = Gauge(
            "keytoll_replica_fresh",
            "Whether this replica's view of the keys is confirmed; else it answers every Check with 503.",
            registry=registry,
        )
        self.allowance_asks = Counter(
            "keytoll_allowance_asks",
            "Times that more of a key was asked for: granted, held by others, spent, or failed.",
            ["outcome"],
            registry=registry,
        )
        for outcome in (*(outcome.value for outcome in Outcome), "failed"):
            self.allowance_asks.labels(outcome)
        self.revocation = Histogram(
            "keytoll_revocation_seconds",
            "Time from a change of a key to when no replica admits by its state before.",
            buckets=_REVOCATION_BUCKETS,
            registry=registry,
        )
        self.models = Gauge("keytoll_catalog_models", "Models on offer.", registry=registry)

    def count_charges(self, charges: Iterable[Charge]) -> None:
        """Count charges that were posted."""
        alike: defaultdict[tuple[str, Measured], list[Charge]] = defaultdict(list)
        for charge in charges:
            alike[self._model_label(charge.entry.model), charge.measured].append(charge)
        for (model, measured), some in alike.items():
            self._count_alike(model, measured, some)

    def _count_alike(self, model: str, measured: Measured, charges: Sequence[Charge]) -> None:
        self.requests.labels(model, measured.value).inc(len(charges))
        self.amount.labels(model).inc(sum(charge.amount_nano for charge in charges) / NANO)
        tokens = zip(*(tokens_of(charge.usage) for charge in charges), strict=True)
        for name, counts in zip(_TOKEN_CLASSES, tokens, strict=True):
            if count := sum(counts):
                self.tokens.labels(model, name).inc(count)

    def count_api_request(self, operation: str, status: int, took_s: float) -> None:
        """Count a request of the console (`none`) or of an operation of the API."""
        self.api_seconds.labels(operation, f"{status // 100}xx").observe(took_s)

    def _model_label(self, model: str) -> str:
        if model not in self._models and len(self._models) >= _MAX_MODELS:
            return "other"
        self._models.add(model)
        return model
