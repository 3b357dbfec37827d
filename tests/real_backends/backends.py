"""The backends: how each is installed, started and named in the catalog, and which endpoints it has."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from keytoll.demo.part import Part, Program

_MODEL_MAKER = Path(__file__).with_name("make_model.py")


class CannotInstall(Exception):
    """What stands in the way, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """`install` puts it into a folder, where `command` starts it on a port; `model` is the model's name there."""

    name: str
    model: str
    endpoints: Sequence[str]
    install: Callable[[Path], None]
    command: Callable[[Path, int], Sequence[str]]
    health: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def part(self, folder: Path, *, port: int, kept_fd: int) -> Part:
        """Return the process that serves it, to be started."""

        async def ready() -> bool:
            async with httpx.AsyncClient(trust_env=False) as client:
                try:
                    return (await client.get(f"http://127.0.0.1:{port}{self.health}")).is_success
                except httpx.TransportError:
                    return False

        return Part(
            Program(
                name=self.name,
                command=self.command(folder, port),
                cwd=folder,
                log=folder / "backend.log",
                kept_fd=kept_fd,
                ready=ready,
                environment=self.environment,
                start_timeout_s=120.0,
            )
        )


# ------------------------------------------------------------------------------------------------------- transformers


def _install_transformers(folder: Path) -> None:
    python = _environment(folder, "transformers[serving]>=5.24", os.environ.get("TORCH", "torch"))
    if not (folder / "tiny-llama").exists():
        fresh = folder / "tiny-llama.new"
        _run(python, _MODEL_MAKER, fresh)
        fresh.rename(folder / "tiny-llama")


def _serve_transformers(folder: Path, port: int) -> Sequence[str]:
    options = ("--host", "127.0.0.1", "--port", str(port), "--device", "cpu")
    return (str(_tool(folder, "transformers")), "serve", "tiny-llama", *options)


# ----------------------------------------------------------------------------------------------------------- xpyd-sim


def _install_xpyd_sim(folder: Path) -> None:
    _environment(folder, "xpyd-sim>=0.5,<0.6")


def _serve_xpyd_sim(folder: Path, port: int) -> Sequence[str]:
    # Left to itself it ends an answer by chance; so it always gives what max_tokens allows.
    options = ("--model", "simulated", "--eos-min-ratio", "1.0", "--host", "127.0.0.1", "--port", str(port))
    return (str(_tool(folder, "xpyd-sim")), "serve", *options)


# ------------------------------------------------------------------------------------------------------------- aimock

_ANSWER = "Tolls have been taken at bridges and gates for as long as somebody had to pay for bridges and gates."
_FIXTURES = [
    # `usage` is what it then reports for the Responses API; without it, it reports zeros there.
    {
        "match": {"userMessage": "counted"},
        "response": {"content": _ANSWER, "usage": {"prompt_tokens": 123, "completion_tokens": 45}},
    },
    {"match": {"userMessage": "slowly"}, "response": {"content": _ANSWER}, "chaos": {"latencyMs": 1500}},
    {"match": {"userMessage": "hang up"}, "response": {"content": _ANSWER}, "truncateAfterChunks": 4},
    {"match": {"userMessage": "tolls"}, "response": {"content": _ANSWER}},
]


def _install_aimock(folder: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise CannotInstall("node and npm are missing: aimock needs them")
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": _FIXTURES}, indent=2))
    package, options = "@copilotkit/aimock@^1.43.0", ("--no-fund", "--no-audit", "--loglevel=error")
    _once(folder, [package], lambda: _run("npm", "install", *options, "--prefix", folder, package))


def _serve_aimock(folder: Path, port: int) -> Sequence[str]:
    script = folder / "node_modules/.bin/llmock"
    options = ("--host", "127.0.0.1", "--port", str(port), "--latency", "25", "--chunk-size", "5")
    return (shutil.which("node") or "node", str(script), *options, "--fixtures", str(folder / "fixtures.json"))


# ------------------------------------------------------------------------------------------------------------- to all

BACKENDS = (
    Backend(
        name="transformers",
        model="tiny-llama",
        endpoints=("chat/completions", "completions", "responses"),
        install=_install_transformers,
        command=_serve_transformers,
        health="/health",
        environment={"HF_HUB_OFFLINE": "1"},
    ),
    Backend(
        name="xpyd-sim",
        model="simulated",
        endpoints=("chat/completions", "completions", "embeddings"),
        install=_install_xpyd_sim,
        command=_serve_xpyd_sim,
        health="/health",
    ),
    Backend(
        name="aimock",
        model="canned",
        endpoints=("chat/completions", "responses", "embeddings"),
        install=_install_aimock,
        command=_serve_aimock,
        health="/health",
    ),
)


def _environment(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment with the requirements, unless it is there; return its Python."""
    python = _tool(folder, "python")

    def install() -> None:
        _run(sys.executable, "-m", "venv", "--clear", folder / "venv")
        _run(python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *requirements)

    _once(folder, requirements, install)
    return python


def _tool(folder: Path, name: str) -> Path:
    return folder / "venv/bin" / name


def _once(folder: Path, requirements: Sequence[str], install: Callable[[], None]) -> None:
    """Install unless just these requirements were installed before, to the end."""
    done, wanted = folder / "installed", "\n".join(requirements)
    if done.exists() and done.read_text() == wanted:
        return
    done.unlink(missing_ok=True)
    install()
    done.write_text(wanted)


def _run(*command: str | Path) -> None:
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotInstall(str(error)) from error
