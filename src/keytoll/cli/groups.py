"""Groups of commands that take the options of every command in front of it, too: `keytoll --json keys list`."""

from typing import Any

import typer
from typer.core import TyperGroup

_WITH_VALUE = frozenset({"--server", "--run-dir"})
_WITHOUT = frozenset({"--json"})


class _Group(TyperGroup):
    """Hands options that stand before a command on to the command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what is left once they are handed on."""
        return super().parse_args(ctx, handed_on(args))


def group(text: str, **options: Any) -> typer.Typer:
    """Return a group of commands with its help."""
    return typer.Typer(cls=_Group, help=text, no_args_is_help=True, **options)


def handed_on(arguments: list[str]) -> list[str]:
    """Return the arguments with shared options moved behind the command; without a command they are for nobody."""
    count = _leading(arguments)
    shared, rest = arguments[:count], arguments[count:]
    if not rest or rest[0].startswith("-"):
        return rest
    return [rest[0], *shared, *rest[1:]]


def _leading(arguments: list[str]) -> int:
    count = 0
    while count < len(arguments):
        name, equals, _ = arguments[count].partition("=")
        if name in _WITH_VALUE:
            count += 1 if equals else 2
        elif arguments[count] in _WITHOUT:
            count += 1
        else:
            break
    return count
