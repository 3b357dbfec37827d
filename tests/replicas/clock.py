"""Run Keytoll with a wall clock that is wrong: `python -m replicas.clock SECONDS ARGUMENT…`. Monotonic clocks are right."""

import sys
import time


def main() -> None:
    seconds, *arguments = sys.argv[1:]
    offset_ns, right_ns = int(float(seconds) * 1e9), time.time_ns
    time.time_ns = lambda: right_ns() + offset_ns
    time.time = lambda: time.time_ns() / 1e9
    from keytoll.cli import main as keytoll  # only now: else it might have taken hold of the right ones

    sys.argv = ["keytoll", *arguments]
    keytoll()


if __name__ == "__main__":
    main()
