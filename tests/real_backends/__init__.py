"""Keytoll before model backends that none of its authors wrote: `make real-backends`.

Installs and starts `transformers serve` (with a tiny random Llama made on the spot), `xpyd-sim` and `aimock`, puts a
real gateway before them, calls every endpoint that they have with OpenAI's SDK, and compares the ledger with what each
backend itself reported. Outside of `make test`, since the first run installs a gigabyte.
"""
