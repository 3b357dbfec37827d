"""UNIX sockets: safe to create over a stale one, and reachable whatever the length of their path."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Give a path of the socket that fits into the 107 bytes of a socket address, while the context lasts.

    It leads through a descriptor of the socket's folder, so it is independent of the working directory as well.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def prepared(path: Path) -> Path:
    """Make the place of a socket free: remove what an earlier process left. Raises OSError if it is in use.

    Something else than a socket is never removed.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return path
    if not stat.S_ISSOCK(mode):
        raise OSError(f"{path} is in the way: it is not a socket")
    if _answers(path):
        raise OSError(f"{path} is in use: another Keytoll runs there")
    path.unlink()
    return path


def _answers(path: Path) -> bool:
    with short_path(path) as short, socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(short)
        except OSError:
            return False
        return True
