"""Listening sockets, made so that nobody else can get at them."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keytoll.settings import CannotStart
from keytoll.sockets import prepared, short_path

_BACKLOG = 128


@contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """Listen at `path`, open to the process's own user only, and remove it at the end.

    A socket left by a dead process is replaced. Raises CannotStart.
    """
    try:
        with short_path(prepared(path)) as address:
            listener = _bound(address)
        inode = path.lstat().st_ino
    except OSError as error:
        raise CannotStart(f"can't listen at {path}: {error.strerror or error}") from error
    with listener:
        try:
            yield listener
        finally:
            _remove(path, inode=inode)


@contextmanager
def tcp_listener(host: str, port: int, *, setting: str) -> Iterator[socket.socket]:
    """Listen on a TCP port, 0 for any free one. Raises CannotStart, which names the `setting` that chose the port."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address, family=family, backlog=_BACKLOG)
        # Connections inherit it. Else an answer written in two parts waits 40 ms for its first part's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"can't be used: {error.strerror}"
        raise CannotStart(f"{setting}: {host}:{port} {reason}") from error
    with listener:
        yield listener


def peer_uid(connection: socket.socket) -> int:
    """Return the user id of the process at the other end of a UNIX socket, as the kernel knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


def _bound(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        # Before bind: Linux then makes the file with this mode, so that it is never open to others, not for a moment.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove(path: Path, *, inode: int) -> None:
    """Remove the socket file, unless another process has put its own there meanwhile."""
    with suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()
