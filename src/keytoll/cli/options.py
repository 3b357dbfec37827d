"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Ask the Keytoll whose console is at this address, with your access token. Else KEYTOLL_SERVER says so, or"
        " where you signed in.",
    ),
]
RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        metavar="DIR",
        help="Ask the Keytoll that runs here with this run folder, with an operator's rights. Else"
        " KEYTOLL_PRIVATE_DIR or RUN_DIR says so; where nothing says anything, it is `run`.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=0, help="At most so many; 0 for all. Unless given, 100 in a table, all in JSON."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
Owner = Annotated[
    str | None,
    typer.Option("--owner", help="Of users/… or organizations/…; by default of yourself, or for an operator of all."),
]
KeyId = Annotated[str | None, typer.Option("--key", metavar="ID", help="Only this key's.")]
Model = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Only this model's.")]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="DATE|DURATION",
        help="Only from then on: a duration back from now (`30m`, `12h`, `7d`, `1mo`), a date (from its start, in the"
        " billing time zone) or a time (`2030-12-31T18:00`).",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="DATE|DURATION",
        help="Only what was before: likewise, but a date means through its end.",
    ),
]

SHOWN = 100
"""How many rows a table has unless a limit is given."""

EXPIRES_HELP = (
    "When the key expires: a duration from now (`3s`, `30m`, `12h`, `30d`, `2w`, `1mo`, `1y`, `1h30m`), a date (through"
    " the end of that day in the billing time zone) or a time (`2030-12-31T18:00`, in the billing time zone unless it"
    " says `Z` or `+08:00`). A month leads to the same day of the next, or to its last."
)
