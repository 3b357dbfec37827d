"""Become another program that ends when its launcher does: `leash.py LAUNCHER_PID PROGRAM ARGUMENT…`.

The launcher starts this in place of the program; a function to run between fork and exec would do the same, but is not
safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    launcher_pid, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The launcher may have died before the line above took effect: then no signal would ever come.
    if os.getppid() == int(launcher_pid):
        _become(command)


def _become(command: list[str]) -> None:
    try:
        os.execv(command[0], command)  # noqa: S606
    except OSError as error:
        sys.exit(f"can't start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
