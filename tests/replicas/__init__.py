"""Several Keytolls, each with its Envoy, on one PostgreSQL store: what they promise together, while they are killed, stopped,
cut off and slowed down, and with clocks that differ.

Each module proves one promise and prints what it counted: `cd tests && python -m replicas`, or with the names of
some: bursts, endings, outages, rolling, slow_store, left_behind, scale. It exits with 1 on a violation. The tests here run
smaller versions.
"""
