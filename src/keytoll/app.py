"""The one place that wires Keytoll: one process, one event loop, from settings to a running service and back down.

It starts from the inside out, store first and sockets last, and stops in reverse: no new Check, then what is left in the
journal is settled, then the store closes. So a stop loses no charge, and what a crash leaves is settled at the next start.
"""

import asyncio
import fcntl
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import structlog
from starlette.types import ASGIApp

import keytoll.envoy
from keytoll import __version__, logs, memory
from keytoll.admission.bodies import LargeBodies
from keytoll.admission.cache import KeyCache
from keytoll.admission.file import AdmissionsFile
from keytoll.admission.holds import HoldBook
from keytoll.admission.membership import Membership
from keytoll.catalog import Catalog, CatalogError
from keytoll.core.decision import Rules
from keytoll.core.months import Calendar
from keytoll.envoy.admin import Admin
from keytoll.envoy.als import AlsSink
from keytoll.envoy.check import CheckHandler
from keytoll.envoy.clusters import ClustersInvalid, EnvoyNotFound, find_envoy
from keytoll.envoy.guard import DiskGuard
from keytoll.envoy.journal import JournalFollower
from keytoll.envoy.publisher import Publisher
from keytoll.envoy.rotation import JournalRotation
from keytoll.envoy.server import EnvoyServer
from keytoll.envoy.transport.server import Ngh2Server
from keytoll.envoy.watch import EnvoyWatch
from keytoll.http.api import create_api
from keytoll.http.contract.common import About
from keytoll.http.front import create_front
from keytoll.http.guesses import Guesses
from keytoll.http.pages import CONSOLE
from keytoll.http.probes import create_probes
from keytoll.http.reads import create_reads
from keytoll.http.server import serve_tcp, serve_unix
from keytoll.http.sign_in import OperatorGate, TokenGate, Tokens
from keytoll.losses import LossDetector
from keytoll.management import create_management
from keytoll.metrics import Metrics
from keytoll.settings import CannotStart, CheckTransport, Settings, Source
from keytoll.settlement import Settlement
from keytoll.store.base import Store, StoredKey, StoreLocked, StoreTooNew, StoreUnavailable
from keytoll.store.postgres import PostgresStore
from keytoll.store.replicas import ReplicaStore
from keytoll.store.sqlite import SqliteStore

_log = structlog.get_logger(__name__)

_WATCH_S = 1.0
_DRAIN_S = 2.0


async def serve(settings: Settings) -> None:
    """Run Keytoll until SIGTERM or SIGINT. Raises CannotStart, or Superseded, with one line for the operator."""
    logs.configure(settings.log_level)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        try:
            keytoll = await stack.enter_async_context(_started(settings))
        except CatalogError as error:
            raise CannotStart("\n".join(error.problems)) from error
        except (ClustersInvalid, EnvoyNotFound, StoreLocked, StoreTooNew, StoreUnavailable) as error:
            raise CannotStart(str(error)) from error
        except OSError as error:
            raise CannotStart(f"can't start: {error}") from error
        memory.settle_in()
        _log.info("ready", version=__version__, run_dir=str(settings.run_dir), source=settings.source.value)
        await keytoll.run_until(stop)
        _log.info("stopping")


class _Running(Protocol):
    """What works in the background until it is cancelled."""

    async def run(self) -> None: ...


class _Keytoll:
    """What runs beside the servers: the source of settlement, the catalog's follower, and the watch over both."""

    def __init__(self, settings: Settings, store: Store, shared: ReplicaStore | None) -> None:
        self.settings = settings
        self.store = store
        self.metrics = metrics = Metrics()
        self.cache = KeyCache(store)
        self.bodies = LargeBodies(monotonic=time.monotonic)
        self.admissions = AdmissionsFile(settings.admissions_dir)
        self.book = HoldBook(self.admissions, monotonic=time.monotonic, on_end=self.bodies.end)
        self.membership = None if shared is None else self._membership(shared)
        self.settlement = Settlement(
            store,
            cache=self.cache,
            book=self.book,
            calendar=lambda: self.current_rules().calendar,
            clock=_now_us,
            metrics=metrics,
            told=self.membership.allowances.told if self.membership else lambda _: None,
        )
        journals = settings.journal_dirs if settings.source is Source.JOURNAL else ()
        self.admins = [Admin(folder.parent / "admin.sock") for folder in journals]
        self.followers = [
            JournalFollower(folder, store=store, settlement=self.settlement, clock=_now_us, metrics=metrics)
            for folder in journals
        ]
        pairs = list(zip(self.followers, self.admins, strict=True))
        self.rotations = [
            JournalRotation(follower=follower, writer=admin, segment_bytes=settings.journal_segment_bytes)
            for follower, admin in pairs
        ]
        self.watches = [EnvoyWatch(admin, clock=_now_us, bound_us=admin.bound_us) for admin in self.admins]
        self.guard = _guard(settings, pairs, metrics)
        self.losses = LossDetector(
            book=self.book,
            settlement=self.settlement,
            longest_s=settings.longest_request_s,
            clock=_now_us,
            read_past_us=self._read_past_us,
            dead_before_us=lambda: min((watch.dead_before_us for watch in self.watches), default=0),
        )
        self.publisher = Publisher(
            catalog_path=settings.catalog,
            run_dir=settings.run_dir,
            envoy=find_envoy(),
            accept=self._accept,
            activate=self._activate,
            on_refused=metrics.catalog_reloads.labels("refused").inc,
        )
        metrics.holds.set_function(lambda: len(self.book))
        metrics.replica_fresh.set_function(lambda: self.membership is None or self.membership.is_fresh)
        self.rules: Rules | None = None
        self.not_ready: Sequence[str] = ("starting",)

    def _membership(self, store: ReplicaStore) -> Membership:
        return Membership(
            store,
            replica=_replica(self.settings.replica_file),
            cache=self.cache,
            book=self.book,
            max_staleness_s=self.settings.max_staleness_s,
            revocation_deadline_s=self.settings.revocation_deadline_s,
            longest_s=self.settings.longest_request_s,
            monotonic=time.monotonic,
            metrics=self.metrics,
        )

    async def restore_holds(self) -> None:
        """Hold again what was admitted by an earlier process and isn't settled."""
        await self.book.restore(self.store)
        if len(self.book):
            _log.info("holds_restored", holds=len(self.book))

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Be one of the replicas that share the store as long as the context lasts, if they do."""
        if self.membership is None:
            self.metrics.replicas.set(1)
            yield
            return
        await self.membership.join()
        try:
            yield
        finally:
            await self.membership.leave()

    def _read_past_us(self) -> int:
        # ALS has no backlog here: what its sender lost won't come.
        return min((follower.read_past_us for follower in self.followers), default=_now_us())

    async def run_until(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. A part that fails ends the process: a supervisor starts it anew, nothing is lost."""
        running: list[_Running] = [
            *self.followers,
            *self.rotations,
            *self.watches,
            self.guard,
            self.losses,
            self.publisher,
        ]
        parts: list[Coroutine[Any, Any, object]] = [*(part.run() for part in running), self._watch(), stop.wait()]
        parts += self.membership.parts() if self.membership else []
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settle_the_rest(self) -> None:
        """Settle what the journal holds by now."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S * 5):
                while any([await follower.read_once() for follower in self.followers]):
                    pass
        # None left: no charge waits on this disk.
        _log.info("settled", holds_left=len(self.book))

    def _accept(self, catalog: Catalog) -> None:
        """Refuse what can't change while amounts of it are in the ledger or decisions are under way."""
        path = self.settings.catalog
        if self.rules is None:
            return
        if catalog.currency != self.rules.currency:
            raise CatalogError([f"{path}: currency: can't change from {self.rules.currency}: the ledger is kept in it"])
        if catalog.zone.key != self.rules.calendar.zone.key:
            raise CatalogError([f"{path}: billing_time_zone: changes only with a restart of Keytoll"])

    async def _activate(self, catalog: Catalog) -> None:
        offers = catalog.offers
        # A charge must find its price, whatever happens between its admission and its settlement.
        versions = [(offer.model, version) for offer in offers.values() for version in offer.prices]
        await self.store.note_prices([(model, v.from_us, v.prices) for model, v in versions], at_us=_now_us())
        kept = await self.store.keep_currency(catalog.currency)
        if kept != catalog.currency:
            raise CatalogError(
                [f"{self.settings.catalog}: currency: must be {kept}, in which this store's ledger is kept"]
            )
        calendar = self.rules.calendar if self.rules else Calendar(catalog.zone)
        self.rules = Rules(calendar, catalog.currency, offers)
        self.metrics.catalog_reloads.labels("accepted").inc()
        self.metrics.models.set(len(offers))

    def current_rules(self) -> Rules:
        """Return the rules in force. They are, before the first Check can come."""
        if self.rules is None:
            raise RuntimeError("no catalog is in force yet")
        return self.rules

    async def key_of(self, key_id: str) -> StoredKey | None:
        """Return a key, from memory if it is there, as it is after its Check: a read then needs no store.

        Where replicas share the store, memory lacks what the others charged, so it is but for when the store is away.
        """
        known = self.cache.known(key_id)
        if self.membership is None:
            return known or await self.store.key_by_id(key_id)
        try:
            return await self.store.key_by_id(key_id)
        except StoreUnavailable:
            if known is None:
                raise
            return known

    async def _watch(self) -> None:
        """Keep readiness and gauges true."""
        while True:
            problems = []
            try:
                self.metrics.unsettled_open.set(await self.store.count_unsettled())
            except StoreUnavailable as error:
                self.metrics.store_errors.inc()
                problems.append(f"store: {error}")
            problems += [f"journal: {each.problem}" for each in self.followers if each.problem is not None]
            problems += [f"admission: {self.guard.problem}"] if self.guard.problem is not None else []
            problems += [f"replica: {self.membership.problem}"] if self.membership and self.membership.problem else []
            self.not_ready = problems
            self.metrics.cache_size.set(len(self.cache))
            await asyncio.sleep(_WATCH_S)


def _guard(settings: Settings, journals: Sequence[tuple[JournalFollower, Admin]], metrics: Metrics) -> DiskGuard:
    """Return the guard over what must be written for a request to be charged."""
    one = len(journals) == 1
    return DiskGuard(
        disks={
            **{"the journal's disk" if one else f"the disk of {each.folder}": each.folder for each, _ in journals},
            "the admissions' disk": settings.admissions_dir,
        },
        envoys={"Envoy" if one else f"the Envoy of {each.folder}": admin for each, admin in journals},
        floor_bytes=settings.disk_floor_bytes,
        metrics=metrics,
    )


@asynccontextmanager
async def _started(settings: Settings) -> AsyncIterator[_Keytoll]:
    for folder in (settings.run_dir, settings.own_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        # Before anything is written: another Keytoll's Envoy may be reading there.
        stack.enter_context(_claimed(settings.run_dir))
        _prepare_folders(settings)
        keytoll = _Keytoll(settings, *await _opened(settings, stack))
        await keytoll.publisher.start()
        await keytoll.restore_holds()
        await stack.enter_async_context(keytoll.joined())
        stack.callback(keytoll.admissions.close)
        for admin in keytoll.admins:
            stack.push_async_callback(admin.aclose)
        await keytoll.guard.look()
        stack.push_async_callback(keytoll.settle_the_rest)
        await stack.enter_async_context(_envoy_server(keytoll))
        for app, path in _apps(keytoll):
            await stack.enter_async_context(serve_unix(app, path))
        probes = create_probes(keytoll.metrics.registry, ready=lambda: keytoll.not_ready)
        await stack.enter_async_context(
            serve_tcp(probes, host=settings.metrics_host, port=settings.metrics_port, setting="METRICS_PORT")
        )
        yield keytoll


async def _opened(settings: Settings, stack: AsyncExitStack) -> tuple[Store, ReplicaStore | None]:
    """Open the store; return it, and again if replicas share it."""
    shared = None if settings.postgres_url is None else await PostgresStore.open(settings.postgres_url)
    store = await SqliteStore.open(settings.database) if shared is None else shared
    stack.push_async_callback(store.close)
    return store, shared


def _replica(file: Path) -> str:
    """Return the id of this replica, which is made once: the host's name, for people, and something of its own."""
    with suppress(FileNotFoundError):
        return file.read_text("ascii").strip()
    replica = f"{re.sub(r'[^A-Za-z0-9.-]', '-', socket.gethostname())}-{os.urandom(4).hex()}"
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{replica}\n", "ascii")
    fresh.replace(file)
    return replica


def _apps(keytoll: _Keytoll) -> Iterator[tuple[ASGIApp, Path]]:
    """Return what people, operators and callers reach by HTTP, each with its socket."""
    rules, metrics, settings = keytoll.current_rules(), keytoll.metrics, keytoll.settings
    management = create_management(
        store=keytoll.store,
        cache=keytoll.cache,
        calendar=rules.calendar,
        clock=_now_us,
        random=os.urandom,
        held=keytoll.book.of,
        everywhere=None if keytoll.membership is None else keytoll.membership.everywhere,
    )
    about = About(
        version=__version__,
        currency=rules.currency,
        billing_time_zone=rules.calendar.zone.key,
        base_url=settings.base_url or None,
    )
    guesses = Guesses(monotonic=time.monotonic)
    tokens = Tokens(management.owners.authenticate, guesses=guesses, metrics=metrics)
    yield create_api(management, about=about, gate=OperatorGate(tokens), metrics=metrics), settings.operator_socket
    people = create_api(management, about=about, gate=TokenGate(tokens), metrics=metrics, console=CONSOLE)
    reads = create_reads(
        lambda: keytoll.current_rules().offers, key_of=keytoll.key_of, standing=management.keys.standing
    )
    yield create_front(reads=reads, management=people), settings.api_socket


@asynccontextmanager
async def _envoy_server(keytoll: _Keytoll) -> AsyncIterator[None]:
    check = CheckHandler(
        keytoll.cache,
        book=keytoll.book,
        bodies=keytoll.bodies,
        rules=keytoll.current_rules,
        clock=_now_us,
        random=os.urandom,
        metrics=keytoll.metrics,
        obstacle=lambda: keytoll.guard.problem,
        membership=keytoll.membership,
    )
    server = _carrier(keytoll, check)
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace_s=_DRAIN_S)


def _carrier(keytoll: _Keytoll, check: CheckHandler) -> Ngh2Server | EnvoyServer:
    """Return what carries Check. ALS is a stream of messages, which only grpcio carries: then it carries both."""
    settings = keytoll.settings
    als = AlsSink(keytoll.settlement, clock=_now_us) if settings.source is Source.ALS else None
    if als is None and settings.check_transport is CheckTransport.NGH2:
        return Ngh2Server(settings.envoy_socket, check=check, void=check.void)
    return EnvoyServer(settings.envoy_socket, check=check, void=check.void, als=als)


@contextmanager
def _claimed(run_dir: Path) -> Iterator[None]:
    """Own the run folder as long as the context lasts. Raises CannotStart if another Keytoll does."""
    fd = os.open(run_dir / "keytoll.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CannotStart(f"{run_dir} is in use: another Keytoll runs there") from None
    finally:
        os.close(fd)


def _prepare_folders(settings: Settings) -> None:
    """Make the run folder, and put there what Envoy reads at its start."""
    for folder in (
        settings.journal_dir,
        settings.admissions_dir,
        settings.xds_dir,
        settings.credentials_dir,
        settings.lua_dir,
    ):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for script in Path(keytoll.envoy.__file__).parent.glob("*.lua"):
        fresh = settings.lua_dir / f".{script.name}.new"
        fresh.write_bytes(script.read_bytes())
        fresh.replace(settings.lua_dir / script.name)


def _now_us() -> int:
    return time.time_ns() // 1000
