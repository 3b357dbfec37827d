"""Publishing edits of the catalog to a running Envoy."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cds_envoy import Backend, CdsEnvoy, backend, cds_envoy, until
from structlog.testing import capture_logs

from keytoll.catalog import Catalog, CatalogError
from keytoll.envoy.clusters import ClustersInvalid, find_envoy
from keytoll.envoy.publisher import Publisher
from keytoll.store.base import StoreUnavailable


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Backend]:
    async with backend("a") as made:
        yield made


@pytest.fixture(scope="module")
async def envoy() -> AsyncIterator[CdsEnvoy]:
    async with cds_envoy() as made:
        yield made


def catalog_text(port: int, *models: str, price: str = "1", scheme: str = "http") -> str:
    """Return a catalog of these models, all served by the backend at this port."""
    url = f"{scheme}://127.0.0.1:{port}"
    entries = "".join(
        f"  {name}:\n    context_length: 10\n    price: {{input: {price}, output: 1}}\n"
        f'    backends: [{{url: "{url}", allow_local: true}}]\n'
        for name in models
    )
    return f"currency: CNY\nbilling_time_zone: UTC\nmodels:\n{entries}"


def edit(path: Path, text: str) -> None:
    """Replace a file as most editors do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


@dataclass(slots=True)
class Followed:
    """A publisher that follows a catalog file, and what it did."""

    path: Path
    clusters: Path
    in_force: list[Catalog] = field(default_factory=list)
    refused: int = 0
    first: Callable[[Catalog], Awaitable[None]] | None = None

    async def activate(self, catalog: Catalog) -> None:
        """Take a catalog, after whatever the test wants done first."""
        if self.first is not None:
            await self.first(catalog)
        self.in_force.append(catalog)

    def refuse(self) -> None:
        """Count a refusal."""
        self.refused += 1

    @property
    def models(self) -> set[str]:
        """The names on offer."""
        return set(self.in_force[-1].models)

    async def reaches(self, *models: str) -> None:
        """Wait until exactly these models are on offer."""

        async def look() -> bool:
            return self.models == set(models)

        await until(look)

    async def refuses(self) -> None:
        """Wait until an edit was refused."""
        before = self.refused

        async def look() -> bool:
            return self.refused > before

        await until(look)


@asynccontextmanager
async def following(
    envoy: CdsEnvoy, path: Path, *, binary: Path | None = None, grace_s: float = 60, taken_within_s: float = 10
) -> AsyncIterator[Followed]:
    """Start a publisher and let it run."""
    followed = Followed(path, envoy.run_dir / "xds" / "clusters.json")
    publisher = Publisher(
        catalog_path=path,
        run_dir=envoy.run_dir,
        envoy=binary or find_envoy(),
        activate=followed.activate,
        on_refused=followed.refuse,
        grace_s=grace_s,
        taken_within_s=taken_within_s,
    )
    await publisher.start()
    task = asyncio.create_task(publisher.run())
    try:
        yield followed
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def path(tmp_path: Path, server: Backend) -> Path:
    made = tmp_path / "keytoll.yaml"
    made.write_text(catalog_text(server.port, "one"))
    return made


async def status(envoy: CdsEnvoy, model: str) -> int:
    return (await envoy.post(f"model/{model}")).status_code


async def serves(envoy: CdsEnvoy, model: str) -> None:
    """Wait until Envoy serves the model."""

    async def look() -> bool:
        return await status(envoy, model) == 200

    await until(look)


async def test_a_new_model_works_within_two_seconds_of_the_edit(envoy: CdsEnvoy, path: Path, server: Backend) -> None:
    async with following(envoy, path) as followed:
        await serves(envoy, "one")
        started_s = time.monotonic()
        edit(path, catalog_text(server.port, "one", "two"))
        await followed.reaches("one", "two")
        assert await status(envoy, "two") == 200
        assert time.monotonic() - started_s < 2


async def test_a_model_is_offered_only_once_envoy_serves_it(envoy: CdsEnvoy, path: Path, server: Backend) -> None:
    async with following(envoy, path) as followed:
        await serves(envoy, "one")
        seen: list[int] = []

        async def look(_: Catalog) -> None:
            seen.append(await status(envoy, "fresh"))

        followed.first = look
        edit(path, catalog_text(server.port, "one", "fresh"))
        await followed.reaches("one", "fresh")
        assert seen == [200]


async def test_a_broken_edit_is_refused_with_its_line_and_changes_nothing(
    envoy: CdsEnvoy, path: Path, server: Backend
) -> None:
    async with following(envoy, path) as followed:
        await serves(envoy, "one")
        before = followed.clusters.read_bytes()
        with capture_logs() as logs:
            edit(path, catalog_text(server.port, "one", "two").replace("context_length", "contextlength", 1))
            await followed.refuses()
        entry = next(entry for entry in logs if entry["event"] == "catalog_refused")
        assert entry["problem"].startswith(f"{path}:4: models.one.context_length: missing")
        assert followed.clusters.read_bytes() == before
        assert followed.models == {"one"}
        assert await status(envoy, "one") == 200
        edit(path, catalog_text(server.port, "one", "two"))
        await followed.reaches("one", "two")


async def test_a_vanished_catalog_is_refused_once_and_the_old_one_goes_on(
    envoy: CdsEnvoy, path: Path, server: Backend
) -> None:
    async with following(envoy, path) as followed:
        path.unlink()
        await followed.refuses()
        path.write_text(catalog_text(server.port, "one", "back"))
        await followed.reaches("one", "back")
        assert followed.refused == 1


async def test_clusters_that_envoy_would_not_take_never_reach_it(
    envoy: CdsEnvoy, path: Path, server: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with following(envoy, path) as followed:
        await serves(envoy, "one")
        before = followed.clusters.read_bytes()
        edit(path, catalog_text(server.port, "one", "two", scheme="https"))
        await followed.refuses()
        assert followed.clusters.read_bytes() == before
        assert followed.models == {"one"}


async def test_what_envoy_refuses_in_the_end_is_taken_back(
    envoy: CdsEnvoy, path: Path, server: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy may know better than its validation, for instance where it runs on another disk."""
    credulous = tmp_path / "envoy"
    credulous.write_text("#!/bin/sh\nexit 0\n")
    credulous.chmod(0o755)
    (tmp_path / "ca.pem").write_text("not a certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with following(envoy, path, binary=credulous, taken_within_s=1) as followed:
        await serves(envoy, "one")
        before = followed.clusters.read_bytes()
        edit(path, catalog_text(server.port, "two", scheme="https"))
        await followed.refuses()
        assert followed.clusters.read_bytes() == before
        assert followed.models == {"one"}
        await serves(envoy, "one")
        assert await envoy.admin.cds_version() == json.loads(before)["version_info"]


async def test_a_mounted_configmap_is_followed(envoy: CdsEnvoy, server: Backend, tmp_path: Path) -> None:
    """Kubernetes swaps one symlink: the file's own path never changes."""
    for version, models in (("v1", ("one",)), ("v2", ("one", "two"))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keytoll.yaml").write_text(catalog_text(server.port, *models))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "keytoll.yaml").symlink_to("..data/keytoll.yaml")
    async with following(envoy, tmp_path / "keytoll.yaml") as followed:
        (tmp_path / "..tmp").symlink_to("v2")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        await followed.reaches("one", "two")
        assert await status(envoy, "two") == 200


async def test_a_removed_model_is_no_longer_offered_and_its_pool_goes_after_the_grace(
    envoy: CdsEnvoy, path: Path, server: Backend
) -> None:
    path.write_text(catalog_text(server.port, "one", "old"))
    async with following(envoy, path, grace_s=1) as followed:
        await serves(envoy, "old")
        statuses: list[int] = []

        async def look(_: Catalog) -> None:
            statuses.append(await status(envoy, "old"))

        followed.first = look
        edit(path, catalog_text(server.port, "one"))
        await followed.reaches("one")
        assert statuses == [200]
        assert await status(envoy, "old") == 200

        async def is_gone() -> bool:
            return await status(envoy, "old") == 503

        await until(is_gone)
        assert await status(envoy, "one") == 200


async def test_a_model_that_comes_back_within_the_grace_keeps_its_pool(
    envoy: CdsEnvoy, path: Path, server: Backend
) -> None:
    path.write_text(catalog_text(server.port, "one", "old"))
    async with following(envoy, path, grace_s=1) as followed:
        await serves(envoy, "old")
        edit(path, catalog_text(server.port, "one"))
        await followed.reaches("one")
        edit(path, catalog_text(server.port, "one", "old"))
        await followed.reaches("one", "old")
        edit(path, catalog_text(server.port, "one", "old", "brief"))
        await followed.reaches("one", "old", "brief")
        edit(path, catalog_text(server.port, "one", "old"))
        await followed.reaches("one", "old")

        async def is_dropped() -> bool:
            return b"model/brief" not in followed.clusters.read_bytes()

        await until(is_dropped)
        assert await status(envoy, "old") == 200


async def test_a_change_of_price_alone_leaves_envoy_in_peace(envoy: CdsEnvoy, path: Path, server: Backend) -> None:
    async with following(envoy, path) as followed:
        before = followed.clusters.stat()
        edit(path, catalog_text(server.port, "one", price="2.50"))

        async def is_dearer() -> bool:
            return followed.in_force[-1].models["one"].prices[0].prices.input == 2_500_000_000

        await until(is_dearer)
        assert followed.clusters.stat() == before


async def test_a_comment_is_not_a_change(envoy: CdsEnvoy, path: Path, server: Backend) -> None:
    async with following(envoy, path) as followed:
        edit(path, catalog_text(server.port, "one") + "# a comment\n")
        os.utime(path, ns=(1, 1))
        edit(path, catalog_text(server.port, "one", "two"))
        await followed.reaches("one", "two")
        assert len(followed.in_force) == 2


async def test_while_the_store_is_away_a_catalog_waits(envoy: CdsEnvoy, path: Path, server: Backend) -> None:
    """Prices are kept in the store before anything is priced by them."""
    async with following(envoy, path) as followed:
        tries = 0

        async def fail_once(_: Catalog) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise StoreUnavailable("away")

        followed.first = fail_once
        edit(path, catalog_text(server.port, "one", "two"))
        await followed.reaches("one", "two")
        assert tries == 2


async def test_a_start_with_the_same_clusters_leaves_the_file_alone(envoy: CdsEnvoy, path: Path) -> None:
    async with following(envoy, path) as followed:
        before = followed.clusters.stat()
    async with following(envoy, path) as followed:
        assert followed.clusters.stat() == before
        assert followed.models == {"one"}


async def test_a_start_with_a_broken_catalog_fails_with_its_line(envoy: CdsEnvoy, path: Path) -> None:
    path.write_text("currency: CNY\n")
    with pytest.raises(CatalogError, match=r"keytoll\.yaml:1: "):
        async with following(envoy, path):
            pass


async def test_a_start_with_clusters_that_envoy_refuses_fails(
    envoy: CdsEnvoy, path: Path, server: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    path.write_text(catalog_text(server.port, "one", scheme="https"))
    with pytest.raises(ClustersInvalid, match=r"ca\.pem"):
        async with following(envoy, path):
            pass


async def test_without_an_envoy_edits_are_in_force_and_envoy_finds_them_when_it_starts(
    path: Path, server: Backend
) -> None:
    async with cds_envoy(started=False) as later, following(later, path) as followed:
        edit(path, catalog_text(server.port, "one", "two"))
        await followed.reaches("one", "two")
        await later.start()
        await serves(later, "two")


async def test_a_missing_credential_is_told(envoy: CdsEnvoy, path: Path, server: Backend) -> None:
    path.write_text(path.read_text().replace("allow_local", "credential: nowhere, allow_local"))
    with capture_logs() as logs:
        async with following(envoy, path):
            pass
    assert any(e["event"] == "credential_missing" and e["credential"] == "nowhere" for e in logs)


async def test_envoys_logs_can_be_reopened(envoy: CdsEnvoy) -> None:
    await envoy.admin.reopen_logs()
