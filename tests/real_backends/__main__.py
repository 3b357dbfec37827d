"""Run every call through the gateway to every backend, print a table, and end with 1 if anything doesn't agree."""

import asyncio
import fcntl
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import openai
from e2e.conftest import Gateway
from e2e.scripted import ScriptedBackend

from keytoll.demo.part import PartFailed
from keytoll.demo.ports import Ports
from keytoll.demo.stack import PROJECT, Stack, StackSettings
from keytoll.settings import CannotStart
from real_backends.backends import BACKENDS, Backend, CannotInstall
from real_backends.calls import Asking, Call, Run, Wrong, calls_for
from real_backends.judge import PRICE, Outcome
from real_backends.tap import Answer, Recording, Tap

HOME = PROJECT / ".real-backends"
COLUMNS = ("backend", "endpoint", "call", "status", "reported", "directly", "ledger", "measured", "ok")
_MODEL = """
  {backend}/{model}:
    context_length: 4096
    price: {{input: {input}, cached_input: {cached_input}, output: {output}}}
    backends:
    - {{url: "http://127.0.0.1:{port}/v1", model: {model}, allow_local: true}}
"""


def main() -> int:
    """Return the exit status."""
    try:
        with _locked(HOME) as kept_fd:
            _install()
            outcomes = asyncio.run(_outcomes(kept_fd))
    except (CannotInstall, CannotStart, PartFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # everything has been stopped by now
        return 130
    return _report(outcomes)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Keep a second run out, and until the last process of this one has ended."""
    folder.mkdir(exist_ok=True)
    lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock_fd
    except BlockingIOError:
        raise CannotStart(f"{folder} is in use by another run") from None
    finally:
        os.close(lock_fd)


def _install() -> None:
    for backend in BACKENDS:
        print(f"Installing {backend.name} unless it is there; the first time takes minutes …", flush=True)
        (HOME / backend.name).mkdir(exist_ok=True)
        backend.install(HOME / backend.name)


async def _outcomes(kept_fd: int) -> list[tuple[Backend, Outcome]]:
    async with AsyncExitStack() as stack:
        taps = {each.name: await stack.enter_async_context(_started(each, kept_fd)) for each in BACKENDS}
        gateway = await stack.enter_async_context(_gateway(taps))
        return [
            (backend, await _outcome(gateway, backend, taps[backend.name], call))
            for backend in BACKENDS
            for call in calls_for(backend)
        ]


@asynccontextmanager
async def _started(backend: Backend, kept_fd: int) -> AsyncIterator[Tap]:
    """Start a backend, with a tap before it."""
    print(f"Starting {backend.name} …", flush=True)
    port = Ports.free().backend
    part = backend.part(HOME / backend.name, port=port, kept_fd=kept_fd)
    try:
        await part.start()
        async with Tap(port).listening() as tap:
            yield tap
    finally:
        await part.stop()


@asynccontextmanager
async def _gateway(taps: dict[str, Tap]) -> AsyncIterator[Gateway]:
    """Start a gateway, new each time, whose catalog has one model of each backend."""
    run_dir = HOME / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    catalog = HOME / "keytoll.yaml"
    models = [_MODEL.format(backend=b.name, model=b.model, port=taps[b.name].port, **PRICE) for b in BACKENDS]
    catalog.write_text("currency: CNY\nbilling_time_zone: Asia/Shanghai\nmodels:" + "".join(models))
    async with Stack(StackSettings(run_dir=run_dir, ports=Ports.free(), catalog=catalog)) as stack:
        yield Gateway(stack, ScriptedBackend())


async def _outcome(gateway: Gateway, backend: Backend, tap: Tap, call: Call) -> Outcome:
    """Make a call with a key of its own, whose only charge is then the call's; then the same directly."""
    key = await gateway.new_key()
    async with gateway.sdk(key, max_retries=0) as client:
        recording, wrong = await _recorded(tap, call.run, client, f"{backend.name}/{backend.model}")
    charge = await gateway.charge(key)
    direct = None if call.direct is None else await _direct(tap, call.direct, backend.model)
    return Outcome(call=call, wrong=wrong, answer=recording.answer(), direct=direct, charge=charge)


async def _direct(tap: Tap, run: Run, model: str) -> Answer:
    url = f"http://127.0.0.1:{tap.port}/v1"
    async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:
        recording, _ = await _recorded(tap, run, client, model)
    return recording.answer()


async def _recorded(tap: Tap, run: Run, client: openai.AsyncOpenAI, model: str) -> tuple[Recording, str]:
    """Return what passed at the backend, and what the caller found wrong."""
    recording = tap.record()
    try:
        await run(Asking(client=client, model=model, recording=recording))
    except Wrong as wrong:
        return recording, str(wrong)
    return recording, ""


def _report(outcomes: Sequence[tuple[Backend, Outcome]]) -> int:
    rows = [COLUMNS, *(_row(backend, outcome) for backend, outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    print("\nTokens are input/output.\n")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    failed = sum(any(outcome.faults()) for _, outcome in outcomes)
    print(f"\n{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _row(backend: Backend, outcome: Outcome) -> tuple[str, ...]:
    call, answer, direct, charge = outcome.call, outcome.answer, outcome.direct, outcome.charge
    return (
        backend.name,
        call.endpoint,
        call.what,
        str(charge["status"]),
        "-" if answer.tokens is None else str(answer.tokens),
        "-" if direct is None or direct.tokens is None else str(direct.tokens),
        str(outcome.ledger),
        charge["measured"],
        "; ".join(outcome.faults()) or "ok",
    )


if __name__ == "__main__":
    sys.exit(main())
