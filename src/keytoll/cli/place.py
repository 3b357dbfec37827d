"""Which Keytoll a command asks: the one that runs here, over its operator's socket, or one behind an address.

An option counts more than the environment, and that more than where somebody signed in. The token of a sign-in goes to the
server that it is for, and to no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import typer

from keytoll.cli.failure import Failure
from keytoll.cli.signin import SignIn, check_token, config_file, read_signin
from keytoll.core.errors import InvalidValue
from keytoll.settings import Settings

SERVER, RUN_DIR, TOKEN = "KEYTOLL_SERVER", "RUN_DIR", "KEYTOLL_ACCESS_TOKEN"
PRIVATE_DIR = "KEYTOLL_PRIVATE_DIR"
"""Where operator.sock is, if it is not in the run folder."""


@dataclass(frozen=True, slots=True)
class Local:
    """A Keytoll that runs here, asked as an operator."""

    run_dir: Path

    @property
    def address(self) -> str:
        """Where it is reached: the path of its operator's socket."""
        return str(Settings(run_dir=self.run_dir).operator_socket)


@dataclass(frozen=True, slots=True)
class Remote:
    """A Keytoll behind an address, asked by a person."""

    server: str
    token: str = field(repr=False)

    @property
    def address(self) -> str:
        """Where it is reached."""
        return self.server

    @property
    def is_plain(self) -> bool:
        """Whether it is spoken to without TLS, which happens on this machine only."""
        return self.server.startswith("http:")


Place = Local | Remote


def find_place(*, server: str | None, run_dir: Path | None, environment: Mapping[str, str]) -> Place:
    """Return which Keytoll to ask. Raises Failure, or InvalidValue for what is no address."""
    named = named_server(server=server, run_dir=run_dir, environment=environment)
    if named is not None:
        return Remote(named, _token(named, environment))
    if folder := run_dir or environment.get(PRIVATE_DIR) or environment.get(RUN_DIR):
        return Local(Path(folder))
    signed_in = read_signin(config_file(environment))
    if signed_in is None:
        return Local(Path("run"))
    address = check_server(signed_in.server)
    return Remote(address, _given_token(environment) or _kept_token(signed_in, environment))


def named_server(*, server: str | None, run_dir: Path | None, environment: Mapping[str, str]) -> str | None:
    """Return the address that an option or the environment names. Raises InvalidValue."""
    if server is not None and run_dir is not None:
        raise typer.BadParameter("Give only one of --server and --run-dir.")
    if server is None and run_dir is None:
        server = environment.get(SERVER) or None
    return None if server is None else check_server(server)


def check_server(text: str) -> str:
    """Return the address of a Keytoll as it is written shortest. Raises InvalidValue.

    Over plain HTTP everybody on the way could read the token, so that is for this machine only.
    """
    address = _split(text.strip())
    if address is None:
        raise InvalidValue("server", "must be an address such as https://gateway.example.com")
    if address.scheme == "http" and not _is_loopback(address.hostname or ""):
        raise InvalidValue("server", "must be https: over plain http anyone on the way could read the access token")
    path = address.path.rstrip("/").removesuffix("/api/v1").rstrip("/")
    return f"{address.scheme}://{address.netloc}{path}"


def _split(text: str) -> SplitResult | None:
    try:
        address = urlsplit(text)
        port = address.port
    except ValueError:
        return None
    strange = address.username or address.password or address.query or address.fragment or port == 0
    if address.scheme not in {"http", "https"} or not address.hostname or strange or not text.isprintable():
        return None
    return address


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _token(server: str, environment: Mapping[str, str]) -> str:
    if given := _given_token(environment):
        return given
    signed_in = read_signin(config_file(environment))
    if signed_in is None or check_server(signed_in.server) != server:
        raise Failure(f"you are not signed in at {server}: run `keytoll login --server {server}`, or set {TOKEN}")
    return _kept_token(signed_in, environment)


def _given_token(environment: Mapping[str, str]) -> str | None:
    given = environment.get(TOKEN)
    return check_token(given, origin=TOKEN) if given else None


def _kept_token(signed_in: SignIn, environment: Mapping[str, str]) -> str:
    return check_token(signed_in.access_token, origin=f"access_token in {config_file(environment)}")
