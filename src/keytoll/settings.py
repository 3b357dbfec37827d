"""What a Keytoll is started with. The command line and the environment fill it in; everything else is in the catalog."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

MIB = 1024 * 1024
MIN_SEGMENT_BYTES = 64 * 1024
"""Of a journal file, before it is rotated: less would be some fifty entries."""


POSTGRES_SCHEMES = ("postgresql://", "postgres://")
"""How the URL of a PostgreSQL database begins."""


class Source(StrEnum):
    """Which of Envoy's access logs is settled: the journal, a file, or ALS, for an Envoy that shares no disk."""

    JOURNAL = "journal"
    ALS = "als"


class CheckTransport(StrEnum):
    """What carries Check. With ALS as the source it is always grpcio, which then serves both on the one socket."""

    NGH2 = "ngh2"
    GRPCIO = "grpcio"


LOG_GRACE_S = 30.0
"""What a request's log entry may take at most to be written once Envoy has ended the request."""


class CannotStart(Exception):
    """Something outside stands in the way of starting. The message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`private_dir` holds what Envoy has no business with; None for `run_dir`, which both share. `store` is the URL of a
    PostgreSQL database, or the path of an SQLite one; empty for `keytoll.db` in the private folder. A URL holds a
    password, so it is never shown. `max_stream_s` is the `max_stream_duration` of envoy.yaml. `journals` are the folders
    of all journals; empty for `journal` in `run_dir`.
    `max_staleness_s` is how long a replica admits by what it knows when a shared store doesn't confirm it;
    `revocation_deadline_s` how long a change waits for replicas that don't say that they saw it.
    `base_url` is where callers reach the gateway, for the examples that owners are shown; empty if that is not known."""

    run_dir: Path = Path("run")
    private_dir: Path | None = None
    catalog: Path = Path("keytoll.yaml")
    store: str = field(default="", repr=False)
    source: Source = Source.JOURNAL
    check_transport: CheckTransport = CheckTransport.NGH2
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9090
    log_level: str = "info"
    max_stream_s: float = 3600.0
    journals: tuple[Path, ...] = ()
    journal_segment_bytes: int = 64 * MIB
    disk_floor_bytes: int = 64 * MIB
    max_staleness_s: float = 3.0
    revocation_deadline_s: float = 5.0
    base_url: str = ""

    @property
    def own_dir(self) -> Path:
        """Where Keytoll keeps what Envoy has no business with."""
        return self.private_dir or self.run_dir

    @property
    def operator_socket(self) -> Path:
        """Where the operator's API is served, for the CLI."""
        return self.own_dir / "operator.sock"

    @property
    def envoy_socket(self) -> Path:
        """Where Envoy sends its Checks, and its log entries if the source is ALS."""
        return self.run_dir / "envoy.sock"

    @property
    def api_socket(self) -> Path:
        """Where callers' reads are answered, behind Envoy."""
        return self.run_dir / "api.sock"

    @property
    def admin_socket(self) -> Path:
        """Where Envoy serves its own admin interface."""
        return self.run_dir / "admin.sock"

    @property
    def journal_dir(self) -> Path:
        """Where Envoy writes the journal."""
        return self.run_dir / "journal"

    @property
    def journal_dirs(self) -> tuple[Path, ...]:
        """The folders of all journals, each with the admin socket of its Envoy beside it."""
        return self.journals or (self.journal_dir,)

    @property
    def admissions_dir(self) -> Path:
        """Where Keytoll notes what it admits, for its next start."""
        return self.own_dir / "admissions"

    @property
    def replica_file(self) -> Path:
        """Where this replica keeps its id, by which a shared store knows it again after a restart."""
        return self.own_dir / "replica"

    @property
    def longest_request_s(self) -> float:
        """After which time since its admission a request is certainly over and logged."""
        return self.max_stream_s + LOG_GRACE_S

    @property
    def xds_dir(self) -> Path:
        """Where Envoy finds its clusters."""
        return self.run_dir / "xds"

    @property
    def lua_dir(self) -> Path:
        """Where Envoy finds the scripts that it runs."""
        return self.run_dir / "lua"

    @property
    def credentials_dir(self) -> Path:
        """Where the backends' credentials lie, one file each."""
        return self.run_dir / "credentials"

    @property
    def postgres_url(self) -> str | None:
        """The URL of the PostgreSQL database, if the store is one."""
        return self.store if self.store.startswith(POSTGRES_SCHEMES) else None

    @property
    def database(self) -> Path:
        """The SQLite database, if the store is one."""
        return Path(self.store) if self.store else self.own_dir / "keytoll.db"
