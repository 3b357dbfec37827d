"""The promises about money, proved under load on the whole gateway. Each module prints what it counted, and exits with
1 on a violation: `cd tests && python -m load.NAME`, NAME being burst, kills, envoy_ends, rotation or full_disk (which
mounts a tmpfs, so needs root); `python -m load` runs all of these. `python -m load.soak MINUTES` stands for itself.

Smaller versions of the same run in tests/e2e/test_money.py.
"""
