"""Shell completion, as a real bash runs it."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
COMPLETE = """
eval "$(keytoll --show-completion)"
COMP_WORDS=(TYPED) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_keytoll_completion keytoll
printf '%s\\n' "${COMPREPLY[@]}"
"""


async def bash(script: str, home: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *(
            "bash",
            "--norc",
            "-c",
            f"{script}\ntrue",
        ),  # the last keeps bash from becoming keytoll, which asks who called it
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home)},
    )
    out, _ = await process.communicate()
    return out.decode()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("keytoll or", ["organizations"]),
        ("keytoll organizations members ''", ["list", "set", "remove"]),
        ("keytoll --json --server https://gateway.example.com access-token r", ["reset", "revoke"]),
        ("keytoll keys list --status ''", ["active", "disabled", "expired", "spent"]),
        ("keytoll keys list --ser", ["--server"]),
    ],
)
async def test_bash_is_offered_what_fits(tmp_path: Path, words: str, offered: list[str]) -> None:
    out = await bash(COMPLETE.replace("TYPED", words), tmp_path)
    assert out.split() == offered


async def test_it_is_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    await bash("keytoll --install-completion", tmp_path)
    installed = (tmp_path / ".bash_completions" / "keytoll.sh").read_text()
    assert "_KEYTOLL_COMPLETE=complete_bash" in installed
    assert "keytoll.sh" in (tmp_path / ".bashrc").read_text()
