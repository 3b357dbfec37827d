"""The stack's ports on 127.0.0.1, each with the variable that sets it."""

import contextlib
import socket
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Self

from keytoll.settings import CannotStart

VARIABLES = {"data": "DATA_PORT", "management": "MANAGEMENT_PORT", "metrics": "METRICS_PORT", "backend": "BACKEND_PORT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """`data` is Envoy's, for callers; `management` is Envoy's, for people; `metrics` is Keytoll's."""

    data: int = 8080
    management: int = 8081
    metrics: int = 9090
    backend: int = 8082

    @classmethod
    def free(cls) -> Self:
        """Four ports that nobody uses. Envoys share a port silently, so each stack needs its own."""
        with contextlib.ExitStack() as sockets:
            opened = [sockets.enter_context(_listener(0)) for _ in VARIABLES]
            numbers = [each.getsockname()[1] for each in opened]
        return cls(**dict(zip(VARIABLES, numbers, strict=True)))

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """The ports that the variables set. Raises CannotStart."""
        given = {name: variable for name, variable in VARIABLES.items() if environment.get(variable)}
        return cls(**{name: _number(variable, environment[variable]) for name, variable in given.items()})

    def check_free(self) -> None:
        """Raises CannotStart, naming every port that can't be used."""
        problems = [*self._repeated(), *self._taken()]
        if problems:
            raise CannotStart("\n".join(problems))

    def _repeated(self) -> Iterator[str]:
        seen: dict[int, str] = {}
        for port, variable in zip(astuple(self), VARIABLES.values(), strict=True):
            if port in seen:
                yield f"port {port} is set twice: by {seen[port]} and {variable}"
            seen[port] = variable

    def _taken(self) -> Iterator[str]:
        for port, variable in zip(astuple(self), VARIABLES.values(), strict=True):
            try:
                _listener(port).close()
            except OSError as error:
                reason = "is in use" if not isinstance(error, PermissionError) else "needs more rights"
                yield f"port {port} {reason}: stop what uses it, or set {variable} to another one"


def _number(variable: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise CannotStart(f"{variable} must be a port number from 1 to 65535, not {text!r}")
    return int(text)


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        # Without it a port is taken for a minute after its last connection was closed.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise
    return listener
