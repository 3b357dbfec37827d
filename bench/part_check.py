"""Check alone: Keytoll's handler, complete and real, beside the same under grpc.aio, the least in C++, and a bare Envoy."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import books, envoys
from bench.load import Caller
from bench.processes import PROJECT, cpu_us, envoy, python, running
from bench.results import Row, Target, ratios
from keytoll.demo.part import Part
from keytoll.demo.ports import Ports

OF_GRPC_AIO = Target("CPU of a Check, of the same handler under grpc.aio", 0.15)
OF_CPP = Target("CPU of a Check, of an empty handler of the C++ gRPC library", 1.5)
OF_BARE = Target("CPU of a Check, of an Envoy without any filter", 0.4)
ROUNDS, SECONDS, CONNECTIONS = 5, 3, 32
_BINARY = PROJECT / ".bench" / "empty_server"
_PACKAGES = "g++ pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc"
_BUILD = """
protoc -I bench -I protos --cpp_out="$1" --grpc_out="$1" --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" \\
  authorization.proto keytoll/envoy/messages/check.proto
c++ -O2 -std=c++17 -I "$1" bench/empty_server.cc $(find "$1" -name '*.cc') -o "$1/empty_server" \\
  $(pkg-config --cflags --libs grpc++ protobuf)
"""


@dataclass
class _Measured:
    """A process whose CPU counts, the port of the Envoy before it, and microseconds a request, round by round."""

    pid: int
    port: int
    us: list[float] = field(default_factory=list)

    async def measure(self, caller: Caller) -> None:
        before_us = cpu_us(self.pid)
        load = await caller.run(self.port, connections=CONNECTIONS, seconds=SECONDS)
        self.us.append((cpu_us(self.pid) - before_us) / load.requests)


async def run() -> Sequence[Row]:
    """Measure."""
    with TemporaryDirectory(prefix="keytoll-bench-") as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            ports = Ports.free()
            await stack.enter_async_context(envoy("backend", envoys.backend(ports.backend), folder=folder))
            bare = await stack.enter_async_context(envoy("bare", envoys.bare(ports.data, ports.backend), folder=folder))
            measured = {"Envoy without any filter": _Measured(bare.pid, ports.data)}
            for server in ("ngh2", "grpcio", "C++"):
                if (one := await stack.enter_async_context(_server(server, folder, ports.backend))) is not None:
                    measured[server] = one
            await _take_turns(list(measured.values()), Caller(folder, [books.secret_of(0)]))
    for what, one in measured.items():
        print(f"  {what}: {min(one.us):.1f} to {max(one.us):.1f} us of CPU a request")
    return _rows({what: one.us for what, one in measured.items()})


async def _take_turns(measured: Sequence[_Measured], caller: Caller) -> None:
    for each in measured:
        await caller.run(each.port, connections=CONNECTIONS, seconds=1)
    for _ in range(ROUNDS):
        for each in measured:
            await each.measure(caller)


def _rows(us: dict[str, list[float]]) -> list[Row]:
    beside = {OF_GRPC_AIO: "grpcio", OF_CPP: "C++", OF_BARE: "Envoy without any filter"}
    return [Row(target, ratios(us["ngh2"], us[what])) for target, what in beside.items() if what in us]


@asynccontextmanager
async def _server(name: str, folder: Path, backend_port: int) -> AsyncIterator[_Measured | None]:
    """A server of Check, and an Envoy of its own that asks it."""
    binary = await empty_server() if name == "C++" else None
    if name == "C++" and binary is None:
        yield None
        return
    label = name.replace("+", "p")
    socket, port = folder / f"{label}.sock", Ports.free().data
    async with AsyncExitStack() as stack:
        if binary is not None:
            command = (str(binary), str(socket))
            server: Part = await stack.enter_async_context(
                running(label, command, folder=folder, ready=lambda: asyncio.to_thread(socket.exists))
            )
        else:
            store = folder / f"{label}.db"
            await books.fill(store, keys=1000, known=1)
            arguments = (name, str(socket), str(store), str(folder / f"{label}-admissions"))
            server = await stack.enter_async_context(
                python("bench.check_server", *arguments, folder=folder, socket=socket)
            )
        config = envoys.check_only(f"{label}-envoy", port, backend_port, socket)
        await stack.enter_async_context(envoy(f"{label}-envoy", config, folder=folder))
        yield _Measured(server.pid, port)


async def empty_server() -> Path | None:
    """Build the server in C++, once. None, with a note, where its compiler or its library is missing."""
    source = Path(__file__).with_name("empty_server.cc")
    if _BINARY.exists() and _BINARY.stat().st_mtime > source.stat().st_mtime:
        return _BINARY
    _BINARY.parent.mkdir(exist_ok=True)
    if not await _built():
        print(f"  no empty handler in C++ to compare with: on Debian, apt install {_PACKAGES}", file=sys.stderr)
        return None
    return _BINARY


async def _built() -> bool:
    command = ("sh", "-e", "-c", _BUILD, "build", str(_BINARY.parent))
    process = await asyncio.create_subprocess_exec(*command, cwd=PROJECT, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait() == 0
