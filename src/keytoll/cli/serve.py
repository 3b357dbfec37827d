"""`keytoll serve`: run Keytoll."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from keytoll.cli.failure import Failure
from keytoll.cli.place import PRIVATE_DIR
from keytoll.settings import MIN_SEGMENT_BYTES, POSTGRES_SCHEMES, CannotStart, CheckTransport, Settings, Source

_DEFAULTS = Settings()
_STORE = (
    "The SQLite database, keytoll.db in the private folder by default, or the URL of a PostgreSQL one:"
    " postgresql://USER:PASSWORD@HOST:PORT/DATABASE. Others may see the command line, so say a password in the"
    " environment. Many Keytolls share a PostgreSQL database; an SQLite one is for one at a time."
)
_PRIVATE = (
    "The folder for what Envoy must not see: operator.sock, the admissions and the database. The run folder by default,"
    " for an Envoy that runs as the same user beside it."
)
_JOURNAL = (
    "A journal to settle, repeatable (in the environment separated as in PATH): a folder with Envoy's admin.sock beside"
    " it. The folder `journal` of the run folder by default."
)
_SEGMENT = "The size from which on a journal file is rotated, and removed once it is settled."
_FLOOR = "How much must be left on the disks of the journals and the admissions; with less, every request gets 503."
_STREAM = "The max_stream_duration of envoy.yaml, in seconds: a request that was not logged by then, and a grace, is unsettled."
_STALENESS = (
    "With PostgreSQL: how long, in seconds, requests are admitted by what is in memory while the store doesn't confirm it;"
    " after that they get 503."
)
_DEADLINE = (
    "With PostgreSQL: how long, in seconds, a change of a key waits for replicas that don't confirm it. If it is longer than"
    " the staleness, no replica admits by the state before when a change is answered."
)
_BASE_URL = "Where callers reach the gateway, such as https://gateway.example/v1; the console shows it in its examples."
_TRANSPORT = (
    "What carries Check: libnghttp2, or grpcio, which takes several times the CPU. With ALS as the source it is always"
    " grpcio."
)
_SOURCE = "Which of Envoy's access logs to settle: the journal, a file, or ALS over gRPC."


def serve(
    *,
    run_dir: Annotated[
        Path, typer.Option(envvar="RUN_DIR", help="The folder for sockets, journal and clusters, shared with Envoy.")
    ] = _DEFAULTS.run_dir,
    private_dir: Annotated[Path | None, typer.Option(envvar=PRIVATE_DIR, help=_PRIVATE)] = None,
    catalog: Annotated[Path, typer.Option(envvar="CATALOG", help="The catalog file; it may be edited at any time.")] = (
        _DEFAULTS.catalog
    ),
    store: Annotated[str, typer.Option(envvar="KEYTOLL_STORE", metavar="PATH|URL", help=_STORE)] = _DEFAULTS.store,
    source: Annotated[Source, typer.Option(envvar="KEYTOLL_SOURCE", help=_SOURCE)] = _DEFAULTS.source,
    check_transport: Annotated[
        CheckTransport, typer.Option(envvar="KEYTOLL_CHECK_TRANSPORT", help=_TRANSPORT)
    ] = _DEFAULTS.check_transport,
    journal: Annotated[list[Path] | None, typer.Option(envvar="KEYTOLL_JOURNALS", metavar="DIR", help=_JOURNAL)] = None,
    journal_segment_bytes: Annotated[
        int, typer.Option(envvar="KEYTOLL_JOURNAL_SEGMENT_BYTES", min=MIN_SEGMENT_BYTES, help=_SEGMENT)
    ] = _DEFAULTS.journal_segment_bytes,
    disk_floor_bytes: Annotated[int, typer.Option(envvar="KEYTOLL_DISK_FLOOR_BYTES", min=0, help=_FLOOR)] = (
        _DEFAULTS.disk_floor_bytes
    ),
    max_stream_s: Annotated[float, typer.Option(envvar="KEYTOLL_MAX_STREAM_S", min=1, help=_STREAM)] = (
        _DEFAULTS.max_stream_s
    ),
    max_staleness_s: Annotated[
        float, typer.Option(envvar="KEYTOLL_MAX_STALENESS_S", min=0.5, max=600, help=_STALENESS)
    ] = _DEFAULTS.max_staleness_s,
    revocation_deadline_s: Annotated[
        float, typer.Option(envvar="KEYTOLL_REVOCATION_DEADLINE_S", min=0, max=600, help=_DEADLINE)
    ] = _DEFAULTS.revocation_deadline_s,
    base_url: Annotated[str, typer.Option(envvar="KEYTOLL_BASE_URL", metavar="URL", help=_BASE_URL)] = (
        _DEFAULTS.base_url
    ),
    metrics_host: Annotated[
        str, typer.Option(envvar="KEYTOLL_METRICS_HOST", help="The address for /metrics, /healthz and /readyz.")
    ] = _DEFAULTS.metrics_host,
    metrics_port: Annotated[int, typer.Option(envvar="METRICS_PORT", min=0, max=65535, help="Its port.")] = (
        _DEFAULTS.metrics_port
    ),
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(envvar="KEYTOLL_LOG_LEVEL", help="What to log.")
    ] = "info",
) -> None:
    """Run Keytoll until it is told to stop, by SIGTERM or Ctrl-C.

    Example: `keytoll serve --run-dir run --catalog keytoll.yaml`
    """
    if "://" in store and not store.startswith(POSTGRES_SCHEMES):
        raise typer.BadParameter("must be the path of an SQLite database, or postgresql://…", param_hint="--store")
    _run(
        Settings(
            run_dir=run_dir,
            private_dir=private_dir,
            catalog=catalog,
            store=store,
            source=source,
            check_transport=check_transport,
            journals=tuple(journal or ()),
            journal_segment_bytes=journal_segment_bytes,
            disk_floor_bytes=disk_floor_bytes,
            max_stream_s=max_stream_s,
            max_staleness_s=max_staleness_s,
            revocation_deadline_s=revocation_deadline_s,
            base_url=base_url,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            log_level=log_level,
        )
    )


def _run(settings: Settings) -> None:
    # Before gRPC is imported: it would write lines of its own between ours when Envoy's validation is started.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    import uvloop

    from keytoll.app import serve as serve_app
    from keytoll.store.replicas import Superseded

    try:
        uvloop.run(serve_app(settings))
    except (CannotStart, Superseded) as error:
        raise Failure(str(error)) from error
