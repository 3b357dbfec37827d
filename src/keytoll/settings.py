"""What a Keytoll is started with. The command line and the environment fill it in; everything else is in the catalog."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Source(StrEnum):
    """Which of Envoy's access logs is settled: the journal, a file, or ALS, for an Envoy that shares no disk."""

    JOURNAL = "journal"
    ALS = "als"


class CannotStart(Exception):
    """Something outside stands in the way of starting. The message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`store` is the path of the SQLite database; empty for `keytoll.db` in `run_dir`."""

    run_dir: Path = Path("run")
    catalog: Path = Path("keytoll.yaml")
    store: str = ""
    source: Source = Source.JOURNAL
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9090
    log_level: str = "info"

    @property
    def operator_socket(self) -> Path:
        """Where the operator's API is served, for the CLI."""
        return self.run_dir / "operator.sock"

    @property
    def envoy_socket(self) -> Path:
        """Where Envoy sends its Checks, and its log entries if the source is ALS."""
        return self.run_dir / "envoy.sock"

    @property
    def admin_socket(self) -> Path:
        """Where Envoy serves its own admin interface."""
        return self.run_dir / "admin.sock"

    @property
    def journal_dir(self) -> Path:
        """Where Envoy writes the journal."""
        return self.run_dir / "journal"

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
    def database(self) -> Path:
        """The SQLite database."""
        return Path(self.store) if self.store else self.run_dir / "keytoll.db"
