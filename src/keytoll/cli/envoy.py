"""`keytoll envoy`: run the Envoy that stands beside Keytoll, and drain it before it is stopped."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keytoll.cli.failure import Failure
from keytoll.settings import Settings

if TYPE_CHECKING:
    from keytoll.envoy.bootstrap import Place

app = typer.Typer(help="The Envoy beside Keytoll: run it, drain it.", no_args_is_help=True)

SharedDir = Annotated[
    Path, typer.Option("--run-dir", envvar="RUN_DIR", help="The folder that Envoy shares with Keytoll, and runs in.")
]
_RUN_DIR = Settings().run_dir
_FITTED = "envoy.json"
# Lines of the journal within 100 ms, so that a crash loses no more; and no cluster dropped for a field it doesn't know.
_CHARGING = ("--file-flush-interval-msec", "100", "--reject-unknown-dynamic-fields")
# Without the lines that only say which of Envoy's parts are young.
_LOG = ("--log-level", "warning", "--component-log-level", "misc:error")
_OPTIONS = (*_CHARGING, "--disable-hot-restart", *_LOG)
_CONFIG = "The configuration to fit to this place: Keytoll's envoy.yaml, or your own made from it."
_TLS = "A folder with tls.crt and tls.key, for TLS at both listeners; a renewed pair is taken at once."
_HOPS = "How many proxies stand before Envoy and are trusted to name their clients."
_NOTICE = "For how long, in seconds, new connections are still taken, while each answer closes its connection."
_WITHIN = "After which time in all, in seconds, to give up on requests that still run."


@app.command()
def run(
    *,
    config: Annotated[Path, typer.Option(envvar="KEYTOLL_ENVOY_YAML", help=_CONFIG)] = Path("envoy.yaml"),
    run_dir: SharedDir = _RUN_DIR,
    address: Annotated[str, typer.Option(envvar="KEYTOLL_ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    data_port: Annotated[int | None, typer.Option(envvar="DATA_PORT", min=1, max=65535, help="For callers.")] = None,
    management_port: Annotated[
        int | None, typer.Option(envvar="MANAGEMENT_PORT", min=1, max=65535, help="For people.")
    ] = None,
    trusted_hops: Annotated[int, typer.Option(envvar="KEYTOLL_TRUSTED_HOPS", min=0, max=100, help=_HOPS)] = 0,
    tls_dir: Annotated[Path | None, typer.Option(envvar="KEYTOLL_TLS_DIR", help=_TLS)] = None,
    concurrency: Annotated[int, typer.Option(envvar="KEYTOLL_ENVOY_THREADS", min=1, help="Worker threads.")] = 2,
) -> None:
    """Run Envoy in the run folder, in place of this process and with the options that charging needs.

    Start it after `keytoll serve`, which puts into the run folder what Envoy reads.

    Example: `keytoll envoy run --config envoy.yaml --run-dir run --address 0.0.0.0`
    """
    from keytoll.envoy.bootstrap import Place

    ports = {name: port for name, port in (("data", data_port), ("management", management_port)) if port is not None}
    place = Place(
        address=address,
        ports=ports,
        trusted_hops=trusted_hops,
        tls_dir=None if tls_dir is None else tls_dir.absolute(),
    )
    _exec(_prepared(config, run_dir, place), run_dir, concurrency)


@app.command()
def drain(
    *,
    run_dir: SharedDir = _RUN_DIR,
    notice_s: Annotated[float, typer.Option(envvar="KEYTOLL_DRAIN_NOTICE_S", min=0, help=_NOTICE)] = 5.0,
    within_s: Annotated[float, typer.Option(envvar="KEYTOLL_DRAIN_WITHIN_S", min=0, help=_WITHIN)] = 90.0,
) -> None:
    """Make a running Envoy ready to be stopped: return once no request runs there any more, or none ever did.

    Then stop Envoy, and Keytoll after it. Ends with 1 if requests still run when the time is up: a stop cuts those, and
    they are charged like any stream that is cut.

    Example: `keytoll envoy drain --run-dir run --within-s 600`
    """
    import asyncio

    from keytoll.envoy.admin import AdminUnavailable
    from keytoll.envoy.drain import StillRunning

    try:
        asyncio.run(_drain(run_dir, notice_s=notice_s, within_s=within_s))
    except StillRunning as error:
        running, them = (
            ("1 request still runs", "it") if error.requests == 1 else (f"{error.requests} requests still run", "them")
        )
        raise Failure(f"{running} after {within_s:g} s: to stop Envoy cuts {them}") from error
    except AdminUnavailable as error:
        raise Failure(f"Envoy runs and did not answer within {within_s:g} s") from error
    except FileNotFoundError as error:
        raise Failure(f"no run folder at {run_dir}") from error


async def _drain(run_dir: Path, *, notice_s: float, within_s: float) -> None:
    from keytoll.envoy.admin import Admin
    from keytoll.envoy.drain import drain as drain_envoy

    async with Admin(Settings(run_dir=run_dir).admin_socket) as admin:
        await drain_envoy(admin, notice_s=notice_s, within_s=within_s)


def _prepared(config: Path, run_dir: Path, place: "Place") -> str:
    """Put into the run folder what Envoy starts from, and return its name there."""
    from keytoll.envoy.bootstrap import TLS_FILE, BootstrapInvalid, bootstrap, tls_secret

    try:
        (run_dir / _FITTED).write_text(bootstrap(config.read_text(encoding="utf-8"), place), encoding="utf-8")
        if place.tls_dir is not None:
            (run_dir / TLS_FILE).write_text(tls_secret(place.tls_dir), encoding="utf-8")
    except BootstrapInvalid as error:
        raise Failure(f"{config}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"can't start Envoy: {error}") from error
    return _FITTED


def _exec(config: str, run_dir: Path, concurrency: int) -> None:
    """Become Envoy: signals, exit status and output are then its own."""
    from keytoll.envoy.clusters import EnvoyNotFound, find_envoy

    try:
        envoy = find_envoy().absolute()
    except EnvoyNotFound as error:
        raise Failure(str(error)) from error
    os.chdir(run_dir)
    os.execv(envoy, (str(envoy), "-c", config, "--concurrency", str(concurrency), *_OPTIONS))  # noqa: S606
