"""The rules of keys, admission and money: pure functions and frozen values.

Nothing here does I/O, reads a clock, draws random bytes or knows protobuf: time and randomness come in as arguments, so
that every rule can be tested exactly. Amounts are integers in nano-units of the deployment's currency, instants are
integers in microseconds since the UNIX epoch.
"""
