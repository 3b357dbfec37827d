"""`keytoll serve`: run Keytoll."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from keytoll.cli.client import Failure
from keytoll.cli.options import RUN_DIR
from keytoll.settings import CannotStart, Settings, Source

_DEFAULTS = Settings()
_STORE = "The SQLite database; keytoll.db in the run folder by default."
_SOURCE = "Which of Envoy's access logs to settle: the journal, a file, or ALS over gRPC."


def serve(
    *,
    run_dir: Annotated[
        Path, typer.Option(envvar="RUN_DIR", help="The folder for sockets, journal and clusters, shared with Envoy.")
    ] = RUN_DIR,
    catalog: Annotated[Path, typer.Option(envvar="CATALOG", help="The catalog file; it may be edited at any time.")] = (
        _DEFAULTS.catalog
    ),
    store: Annotated[str, typer.Option(envvar="KEYTOLL_STORE", metavar="PATH", help=_STORE)] = _DEFAULTS.store,
    source: Annotated[Source, typer.Option(envvar="KEYTOLL_SOURCE", help=_SOURCE)] = _DEFAULTS.source,
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
    if "://" in store:
        raise typer.BadParameter("must be the path of an SQLite database", param_hint="--store")
    _run(
        Settings(
            run_dir=run_dir,
            catalog=catalog,
            store=store,
            source=source,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            log_level=log_level,
        )
    )


def _run(settings: Settings) -> None:
    import uvloop

    from keytoll.app import serve as serve_app

    try:
        uvloop.run(serve_app(settings))
    except CannotStart as error:
        raise Failure(str(error)) from error
