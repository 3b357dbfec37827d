"""`make run`: starts the stack with a demo key, tells how to try it, and stops all of it at Ctrl-C.

Variables: RUN_DIR, CATALOG, DATA_PORT, MANAGEMENT_PORT, METRICS_PORT, BACKEND_PORT.
"""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from keytoll.catalog import Catalog, CatalogError, load_catalog
from keytoll.demo.part import PartFailed
from keytoll.demo.ports import Ports
from keytoll.demo.stack import Stack, StackSettings, write_private
from keytoll.settings import CannotStart

_PARENT_POLL_S = 0.25
_EXAMPLE_MODEL = "Qwen2.5-72B-Instruct"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Secrets:
    """What is made anew at each start."""

    api_key: str
    access_token: str


_READY = """
Keytoll is ready. Ctrl-C stops it.

  API key    {api_key}
  Base URL   {base_url}
  Console    {console_url}
  Token      {access_token}
  Metrics    {metrics_url}

To the console you sign in with the access token, as users/demo. Neither it nor the key is shown again.

Ask with curl:

curl {base_url}/chat/completions \\
  -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello, Keytoll!"}}]}}'

Or with Python:

{python} - <<'EOF'
from openai import OpenAI

client = OpenAI(base_url="{base_url}", api_key="{api_key}")
answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello, Keytoll!"}}])
print(answer.choices[0].message.content)
EOF

Then see what it cost:

{charges}
"""


def main() -> int:
    try:
        return asyncio.run(_run(settings_of(os.environ)))
    except CatalogError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
    except (CannotStart, PartFailed) as error:
        print(error, file=sys.stderr)
    return 1


def settings_of(environment: Mapping[str, str]) -> StackSettings:
    """What the variables ask for; an empty one counts as unset. Raises CannotStart."""
    return StackSettings(
        run_dir=Path(environment.get("RUN_DIR") or "run"),
        ports=Ports.of(environment),
        catalog=Path(environment.get("CATALOG") or "keytoll.yaml"),
    )


async def _run(settings: StackSettings) -> int:
    catalog = _load(settings)
    stack = Stack(settings)
    with _signals() as (stop, hurry):
        stopping = asyncio.create_task(stop.wait())
        parent = asyncio.create_task(_follow_make(stop))
        serving = asyncio.create_task(_serve(stack, catalog))
        try:
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            _say("\nStopping: Envoy, then Keytoll, which settles what is left, then the backend …")
        finally:
            for task in (stopping, serving, parent):
                task.cancel()
            await asyncio.gather(stopping, serving, parent, return_exceptions=True)
            await stack.stop(hurry=hurry)
    _say("Stopped.")
    return 0


async def _follow_make(stop: asyncio.Event) -> None:
    """Stop when `make run` was sent a SIGINT of its own, as scripts do: make waits for its child, but doesn't pass it on.

    It waits in its signal handler, where SIGINT is blocked; at all other times it is not.
    """
    status = Path(f"/proc/{os.getppid()}/status")
    while not _is_interrupted_make(status):  # noqa: ASYNC110 - nothing tells of another process's signals
        await asyncio.sleep(_PARENT_POLL_S)
    stop.set()


def _is_interrupted_make(status: Path) -> bool:
    try:
        fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        return fields["Name"] == "make" and bool(int(fields["SigBlk"], 16) >> (signal.SIGINT - 1) & 1)
    except (OSError, KeyError, ValueError):
        return False


def _load(settings: StackSettings) -> Catalog:
    catalog = load_catalog(settings.catalog)
    port = settings.ports.backend
    backends = [backend for model in catalog.models.values() for backend in model.backends]
    if port != Ports().backend and not any(backend.port == port for backend in backends):
        raise CannotStart(f"BACKEND_PORT is {port}, but no backend in {settings.catalog} has that port in its url")
    return catalog


@contextlib.contextmanager
def _signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """The first signal to stop sets the first event; another sets the second."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    try:
        yield stop, hurry
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _serve(stack: Stack, catalog: Catalog) -> None:
    """Start, tell, and go on until a part ends, which is raised."""
    await stack.start()
    async with stack.operator() as operator:
        await _sign_up(operator)
        secrets = _Secrets(api_key=await _demo_key(operator), access_token=await _demo_token(operator))
    with _demo_file(stack, secrets):
        _say(_ready_text(stack, catalog, secrets))
        raise await stack.failure()


async def _sign_up(operator: httpx.AsyncClient) -> None:
    """A person and an organization of theirs, unless they are there from an earlier run. Raises CannotStart."""
    for owners, wanted in (("users", {"name": "demo"}), ("organizations", {"name": "demo-org", "admin": "demo"})):
        if (await operator.get(f"/api/v1/{owners}/{wanted['name']}")).status_code != 404:
            continue
        made = await operator.post(f"/api/v1/{owners}", json=wanted)
        if made.status_code == 409:
            raise CannotStart(f"{owners}/{wanted['name']} was deleted here for good; set RUN_DIR to another folder")
        made.raise_for_status()


async def _demo_token(operator: httpx.AsyncClient) -> str:
    """A new access token: like the key's, its secret can't be had again."""
    reset = await operator.post("/api/v1/users/demo/access-token/reset")
    return str(reset.raise_for_status().json()["secret"])


async def _demo_key(operator: httpx.AsyncClient) -> str:
    """A new key: the secret of the one from an earlier run can't be had again."""
    keys = (await operator.get("/api/v1/users/demo/keys", params={"q": "demo"})).raise_for_status().json()["data"]
    for key in keys:
        if key["name"] == "demo":
            (await operator.delete(f"/api/v1/keys/{key['id']}")).raise_for_status()
    wanted = {"name": "demo", "quota": {"kind": "unlimited", "limit": None}}
    created = (await operator.post("/api/v1/users/demo/keys", json=wanted)).raise_for_status()
    return str(created.json()["secret"])


@contextlib.contextmanager
def _demo_file(stack: Stack, secrets: _Secrets) -> Iterator[None]:
    """What scripts need, there as long as the stack is ready."""
    path = stack.settings.run_dir / "demo.json"
    content = {
        "base_url": stack.base_url,
        "api_key": secrets.api_key,
        "console_url": stack.console_url,
        "api_url": stack.api_url,
        "access_token": secrets.access_token,
        "metrics_url": stack.metrics_url,
        "pids": stack.pids,
    }
    write_private(path, json.dumps(content, indent=2) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _ready_text(stack: Stack, catalog: Catalog, secrets: _Secrets) -> str:
    run_dir, python = stack.settings.run_dir, Path(sys.executable)
    charges = f"{shlex.quote(_shown(python.with_name('keytoll')))} charges list"
    return _READY.format(
        api_key=secrets.api_key,
        base_url=stack.base_url,
        console_url=stack.console_url,
        access_token=secrets.access_token,
        metrics_url=stack.metrics_url,
        model=_EXAMPLE_MODEL if _EXAMPLE_MODEL in catalog.models else next(iter(catalog.models)),
        python=shlex.quote(_shown(python)),
        charges=charges if run_dir == Path("run") else f"RUN_DIR={shlex.quote(str(run_dir))} {charges}",
    )


def _shown(path: Path) -> str:
    """The path as a person types it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _say(text: str) -> None:
    # Whoever reads the output may be gone, as after `make run | head`; the stack still stops in order.
    with contextlib.suppress(OSError):
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
