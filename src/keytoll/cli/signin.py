"""Where somebody is signed in: a file that nobody else may read, with the server and the access token for it."""

import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keytoll.cli.failure import Failure
from keytoll.core.secrets import KEY_PREFIX, TOKEN_PREFIX, is_well_formed

_FIELDS = frozenset({"server", "access_token"})


@dataclass(frozen=True, slots=True)
class SignIn:
    """A server's address, and the access token for it and for no other."""

    server: str
    access_token: str = field(repr=False)


def config_file(environment: Mapping[str, str]) -> Path:
    """Return where it is kept: `keytoll/config.toml` in `XDG_CONFIG_HOME`, by default `~/.config`."""
    home = Path(environment.get("XDG_CONFIG_HOME", ""))  # a relative one is to be ignored, says its specification
    return (home if home.is_absolute() else Path.home() / ".config") / "keytoll" / "config.toml"


def read_signin(file: Path) -> SignIn | None:
    """Return what the file says, None without a file. Raises Failure, also if others may read it."""
    try:
        with file.open("rb") as opened:
            _check_private(file, os.fstat(opened.fileno()))
            found = tomllib.load(opened)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(f"can't read {file}: {error.strerror}") from error
    except ValueError as error:
        raise Failure(f"{file} is not TOML: {error}") from error
    if found.keys() != _FIELDS or not all(isinstance(value, str) for value in found.values()):
        raise Failure(f"{file} must say `server` and `access_token`, both text, and nothing else")
    return SignIn(found["server"], found["access_token"])


def write_signin(file: Path, signed_in: SignIn) -> None:
    """Put the file there at once, for its owner alone. Raises Failure."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    values = {"server": signed_in.server, "access_token": signed_in.access_token}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())  # JSON's ASCII text is TOML's
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600, exist_ok=False)
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(file)
    except OSError as error:
        raise Failure(f"can't write {file}: {error.strerror}") from error


def remove_signin(file: Path) -> bool:
    """Remove the file; return whether there was one. Raises Failure."""
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Failure(f"can't remove {file}: {error.strerror}") from error
    return True


def check_token(token: str, *, origin: str) -> str:
    """Return an access token without the space around it, if it has a token's form: nothing else is sent anywhere."""
    token = token.strip()
    if is_well_formed(TOKEN_PREFIX, token):
        return token
    if token.startswith(KEY_PREFIX):
        raise Failure(f"{origin} is an API key, which is for models; here an access token is needed, {TOKEN_PREFIX}…")
    raise Failure(f"{origin} is no access token, or mistyped: those are {TOKEN_PREFIX} and 49 letters and digits")


def _check_private(file: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise Failure(f"{file} belongs to another user, so its access token is not used")
    if stat.S_IMODE(status.st_mode) != 0o600:
        raise Failure(f"{file} holds an access token, and may be read by you alone: run `chmod 600 {file}`")
