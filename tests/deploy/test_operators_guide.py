"""The operator's guide: what it names is there. What it says of alerts, of PostgreSQL and of gateways is tested elsewhere."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from deploy.pod import PROJECT, container, manifests
from deploy.queries import operators_guide
from keytoll.cli import app

GUIDE = operators_guide()
HEADINGS = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL), re.MULTILINE)


def commands() -> Iterator[str]:
    """Give each use of Keytoll's command line."""
    for text in re.findall(r"^ *(?:kubectl .* -- )?(keytoll .*)$", GUIDE, re.MULTILINE):
        yield text.partition(" #")[0].strip()
    yield from re.findall(r"`(keytoll [^`]*)`", GUIDE)


def parsed(text: str) -> tuple[Any, list[str]]:
    """Return the command that a line leads to, and what it is given."""
    command: Any = typer.main.get_command(app)
    _, *words = shlex.split(text)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    return command, words


@pytest.mark.parametrize("text", sorted(set(commands())))
def test_each_command_is_one_with_these_options(text: str) -> None:
    command, words = parsed(text)
    assert not hasattr(command, "commands"), f"{words[:1]} is no command"
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options


def test_each_link_leads_to_a_heading() -> None:
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in HEADINGS}
    assert set(re.findall(r"\]\(#([^)]*)\)", GUIDE)) <= anchors
    for path in re.findall(r"\]\((\.\.?/[^)#]*)", GUIDE):
        assert (PROJECT / "docs" / path).exists(), path


def test_each_file_of_deploy_is_there() -> None:
    named = {path.rstrip("/.") for path in re.findall(r"\bdeploy/[\w./-]+", GUIDE)}
    assert {path for path in named if "/yours" not in path and not (PROJECT / path).exists()} == set()


def test_each_variable_is_one_of_a_command_or_the_manifests() -> None:
    found: set[str] = {each["name"] for name in ("keytoll", "envoy") for each in container(name)["env"]}
    for words in ("serve", "envoy run", "envoy drain", "keys list"):
        for option in parsed(f"keytoll {words}")[0].params:
            found |= {option.envvar} if isinstance(option.envvar, str) else set(option.envvar or ())
    assert set(re.findall(r"\bKEYTOLL_[A-Z_]+\b", GUIDE)) <= found


def test_each_secret_is_one_that_pods_mount_or_read() -> None:
    told = set(re.findall(r"create secret \w+ ([\w-]+)", GUIDE))
    files = ("base/statefulset.yaml", "overlays/postgres/statefulset.yaml", "tls/kustomization.yaml")
    assert {name for name in told if not any(name in str(manifests(file)) for file in files)} == set()


def test_each_block_of_yaml_is_yaml() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert [list(YAML(typ="safe", pure=True).load_all(block)) for block in blocks]
