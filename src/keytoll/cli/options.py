"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
RunDir = Annotated[
    Path,
    typer.Option("--run-dir", envvar="RUN_DIR", help="The folder that the running Keytoll keeps its sockets in."),
]
RUN_DIR = Path("run")

EXPIRES_HELP = (
    "When the key expires: a duration from now (`3s`, `30m`, `12h`, `30d`, `2w`, `1mo`, `1y`, `1h30m`), a date (through"
    " the end of that day in the billing time zone) or a time (`2030-12-31T18:00`, in the billing time zone unless it"
    " says `Z` or `+08:00`). A month leads to the same day of the next, or to its last."
)
