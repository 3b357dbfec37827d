"""Publishing: from an edit of the catalog to clusters in Envoy, and only then to decisions that use them.

A model is admitted once Envoy reports its cluster; a model that was removed keeps its cluster for a while, since requests
admitted by the old catalog may still be on their way. What is wrong changes nothing: neither in Envoy nor here.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from keytoll.catalog import Catalog, CatalogError, Model, load_catalog
from keytoll.envoy.admin import Admin, AdminUnavailable
from keytoll.envoy.clusters import ClustersInvalid, clusters_version, render_clusters, validate_clusters
from keytoll.store.base import StoreUnavailable

_log = structlog.get_logger(__name__)

_ASK_S = 0.05
_WARMING_S = 1.0
"""How long a new model waits for its backends' names to be resolved, once Envoy has taken its cluster."""

_STORE_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _File:
    """What changes when a file is edited, replaced by a rename, or reached through a symlink that was swapped."""

    device: int
    inode: int
    modified_ns: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Removed:
    model: Model
    until_s: float


class Publisher:
    """Follows the catalog file and keeps Envoy's clusters and the offers in step with it.

    `accept` may raise CatalogError for an edit that can't come into force while Keytoll runs.
    `activate` is awaited with each catalog that is in force from then on; if it raises StoreUnavailable, it is tried
    again until it succeeds or the file changes. `on_refused` is called for each edit that is refused. A pool that was
    removed leaves Envoy `grace_s` after its model is no longer admitted.
    """

    def __init__(
        self,
        *,
        catalog_path: Path,
        run_dir: Path,
        envoy: Path,
        accept: Callable[[Catalog], None] = lambda _: None,
        activate: Callable[[Catalog], Awaitable[None]],
        on_refused: Callable[[], None] = lambda: None,
        grace_s: float = 60.0,
        poll_s: float = 0.25,
        taken_within_s: float = 10.0,
    ) -> None:
        self._path = catalog_path
        self._run_dir = run_dir
        self._target = run_dir / "xds" / "clusters.json"
        self._envoy = envoy
        self._accept = accept
        self._activate = activate
        self._on_refused = on_refused
        self._grace_s = grace_s
        self._poll_s = poll_s
        self._taken_within_s = taken_within_s
        self._catalog: Catalog | None = None
        self._text: str | None = None
        self._removed: Mapping[str, _Removed] = {}
        self._loaded: _File | None = None
        self._seen: _File | None = None

    async def start(self) -> Catalog:
        """Publish the catalog and activate it at once; Envoy need not run. Raises CatalogError or ClustersInvalid."""
        self._loaded = self._seen = _look(self._path)
        catalog = await asyncio.to_thread(load_catalog, self._path)
        text = await asyncio.to_thread(_render, list(catalog.models.values()))
        await validate_clusters(text, envoy=self._envoy)
        if _read(self._target) != text:
            _replace(self._target, text)
        self._text = text
        await self._put_in_force(catalog)
        return catalog

    async def run(self) -> None:
        """Follow the catalog file until cancelled. `start` comes first."""
        async with Admin(self._run_dir / "admin.sock") as admin:
            while True:
                await asyncio.sleep(self._poll_s)
                if self._is_changed():
                    await self._reload(admin)
                await self._drop_removed(admin)

    def _is_changed(self) -> bool:
        """Return whether the file is another than the one loaded, and has been left alone since the last look.

        An editor that writes in place is not met halfway, and a second edit within a clock tick of the first not missed.
        """
        before, self._seen = self._seen, _look(self._path)
        return self._seen == before and self._seen != self._loaded

    async def _reload(self, admin: Admin) -> None:
        self._loaded = self._seen
        try:
            catalog = await asyncio.to_thread(load_catalog, self._path)
            if self._catalog is not None and catalog.version == self._catalog.version:
                return
            self._accept(catalog)
            await self._publish([*catalog.models.values(), *self._leaving(catalog).values()], admin)
        except (CatalogError, ClustersInvalid, OSError) as error:
            _log.error("catalog_refused", problem=str(error))
            self._on_refused()
            return
        await self._put_in_force_when_stored(catalog)

    def _leaving(self, new: Catalog) -> Mapping[str, Model]:
        """Return the models that the new catalog lacks, whose pools requests may still be on their way to."""
        old = dict(self._catalog.models) if self._catalog is not None else {}
        models = {name: removed.model for name, removed in self._removed.items()} | old
        return {name: model for name, model in models.items() if name not in new.models}

    async def _publish(self, models: Sequence[Model], admin: Admin) -> None:
        """Make Envoy use these models' clusters. Raises ClustersInvalid, and all is as before."""
        text = await asyncio.to_thread(_render, models)
        if text == self._text:
            return
        await validate_clusters(text, envoy=self._envoy)
        _replace(self._target, text)
        try:
            taken = await self._is_taken(clusters_version(models), admin)
        except asyncio.CancelledError:
            self._text = text
            raise
        if not taken:
            if self._text is not None:
                _replace(self._target, self._text)
            raise ClustersInvalid(
                f"Envoy did not take the clusters within {self._taken_within_s:g} s; its log says why"
            )
        self._text = text

    async def _is_taken(self, version: str, admin: Admin) -> bool:
        until_s = time.monotonic() + self._taken_within_s
        try:
            while await admin.cds_version() != version:
                if time.monotonic() > until_s:
                    return False
                await asyncio.sleep(_ASK_S)
            await _warmed(admin)
        except AdminUnavailable:
            _log.warning("envoy_away", note="it takes the clusters when it is back")
        return True

    async def _put_in_force_when_stored(self, catalog: Catalog) -> None:
        while True:
            try:
                return await self._put_in_force(catalog)
            except StoreUnavailable as error:
                _log.warning("catalog_waits_for_store", reason=str(error))
            await asyncio.sleep(_STORE_RETRY_S)
            if _look(self._path) != self._loaded:
                return None

    async def _put_in_force(self, catalog: Catalog) -> None:
        await self._activate(catalog)
        now_s = time.monotonic()
        self._removed = {
            name: self._removed.get(name, _Removed(model, now_s + self._grace_s))
            for name, model in self._leaving(catalog).items()
        }
        self._catalog = catalog
        _log.info("catalog_in_force", version=catalog.version, models=len(catalog.models))
        self._warn_of_missing_credentials(catalog)

    def _warn_of_missing_credentials(self, catalog: Catalog) -> None:
        names = {backend.credential for model in catalog.models.values() for backend in model.backends}
        for name in sorted(name for name in names if name is not None):
            if not (self._run_dir / "credentials" / name).is_file():
                _log.warning("credential_missing", credential=name, folder=str(self._run_dir / "credentials"))

    async def _drop_removed(self, admin: Admin) -> None:
        now_s = time.monotonic()
        kept = {name: removed for name, removed in self._removed.items() if removed.until_s > now_s}
        if len(kept) == len(self._removed) or self._catalog is None:
            return
        self._removed = kept
        try:
            await self._publish([*self._catalog.models.values(), *(removed.model for removed in kept.values())], admin)
        except (ClustersInvalid, OSError) as error:
            # The pools that should have gone stay until the next edit: nobody is admitted to them.
            _log.error("clusters_refused", problem=str(error))


async def _warmed(admin: Admin) -> None:
    """Wait until Envoy uses the clusters it took. A name that doesn't resolve must not hold up the other models."""
    until_s = time.monotonic() + _WARMING_S
    while await admin.warming_clusters():
        if time.monotonic() > until_s:
            return
        await asyncio.sleep(_ASK_S)


def _render(models: Sequence[Model]) -> str:
    return render_clusters(models, version=clusters_version(models))


def _look(path: Path) -> _File | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return _File(stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _read(path: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    return None


def _replace(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old or the new one, whole, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
