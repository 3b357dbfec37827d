"""`python -m keytoll.cli` is `keytoll`."""

from keytoll.cli import main

main()
