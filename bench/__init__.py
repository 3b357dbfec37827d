"""What Keytoll costs, beside the proxy that it stands by: `make bench`, or one part alone by `make bench PART=NAME`.

Each part runs what it compares side by side, in rounds that take turns, so that whatever else the machine does meets
both. CPU is the processes' own accounting (/proc/PID/stat), so it hardly depends on that; latencies do, so they are for
a quiet machine. Every Envoy here has one worker.
"""
