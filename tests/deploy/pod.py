"""The pod as the manifests describe it, its two containers run as processes over folders in place of its volumes.

Arguments, environment and the preStop hook are the manifests' own. Only what a machine of tests lacks is changed: paths
begin in a folder, ports are free ones, and addresses are loopback.
"""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from keytoll.demo.backend import CREDENTIAL, create_backend
from keytoll.demo.part import Part, Program
from keytoll.demo.ports import Ports
from keytoll.http.server import serve_tcp
from keytoll.sockets import short_path

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
MODEL = "demo"
_PATIENCE_S = 20.0
_ROOTS = ("/run/", "/var/", "/etc/")
_CATALOG = """
currency: CNY
billing_time_zone: Asia/Shanghai
models:
  MODEL:
    context_length: 10000
    price: {input: 1, output: 2}
    backends: [{url: "http://127.0.0.1:PORT/v1", model: demo-chat, credential: demo, allow_local: true}]
"""


@cache
def manifests(path: str) -> tuple[Any, ...]:
    """Return the objects of a file in deploy/."""
    return tuple(YAML(typ="safe", pure=True).load_all((DEPLOY / path).read_text(encoding="utf-8")))


def stateful_set() -> Any:
    """Return the StatefulSet."""
    return manifests("base/statefulset.yaml")[0]


def container(name: str) -> Any:
    """Return a container of the pod."""
    spec = stateful_set()["spec"]["template"]["spec"]
    return next(each for each in [*spec["initContainers"], *spec["containers"]] if each["name"] == name)


def mounted(folder: Path, files: Mapping[str, str]) -> None:
    """Put files into a folder as the kubelet does: a symlink is swapped, which leads to a folder of this version."""
    folder.mkdir(parents=True, exist_ok=True)
    version = folder / f"..{len(list(folder.glob('..[0-9]*')))}"
    version.mkdir()
    for name, text in files.items():
        (version / name).write_text(text, encoding="utf-8")
    (folder / "..data_tmp").symlink_to(version.name)
    (folder / "..data_tmp").rename(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


async def until(ask: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the answer is yes; fail when patience ends."""
    end_s = time.monotonic() + _PATIENCE_S
    while not await ask():
        assert time.monotonic() < end_s, f"not within {_PATIENCE_S} s"
        await asyncio.sleep(0.05)


@dataclass
class Pod:
    """`root` holds the volumes; what is in `root/state` outlives the pod. `environment` is added to both containers'."""

    root: Path
    backend_port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: Ports = field(default_factory=Ports.free)

    def __post_init__(self) -> None:
        self.run_dir = self.root / "run/keytoll"
        self.private_dir = self.root / "var/lib/keytoll"
        self.offer(MODEL)

    @property
    def url(self) -> str:
        return f"{'https' if 'KEYTOLL_TLS_DIR' in self.environment else 'http'}://127.0.0.1:{self.ports.data}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.metrics}/metrics"

    def offer(self, *models: str) -> None:
        """Put a catalog of these models where the ConfigMap is mounted."""
        head, entry = _CATALOG.replace("PORT", str(self.backend_port)).split("  MODEL:")
        text = head + "".join(f"  {model}:{entry}" for model in models)
        mounted(self.root / "etc/keytoll/catalog", {"keytoll.yaml": text})

    def environment_of(self, name: str) -> dict[str, str]:
        """Return the variables of a container."""
        given = {each["name"]: self._placed(each["value"]) for each in container(name)["env"]}
        ports = {"METRICS_PORT": self.ports.metrics, "DATA_PORT": self.ports.data}
        ports["MANAGEMENT_PORT"] = self.ports.management
        image = {"KEYTOLL_ENVOY_YAML": str(PROJECT / "envoy.yaml")}
        return image | given | {name: str(port) for name, port in ports.items()} | dict(self.environment)

    def _placed(self, value: str) -> str:
        if value.startswith(_ROOTS):
            return str(self.root / value.removeprefix("/"))
        return value.replace("0.0.0.0", "127.0.0.1")

    async def keytoll(self, *arguments: str, container: str = "keytoll") -> tuple[int, str]:
        """Run a command in a container; return its exit status and output."""
        return await self._run(container, ("keytoll", *arguments))

    async def pre_stop(self) -> tuple[int, str]:
        """Run Envoy's preStop hook."""
        return await self._run("envoy", container("envoy")["lifecycle"]["preStop"]["exec"]["command"])

    async def new_key(self, **fields: Any) -> dict[str, Any]:
        """Create a key, unlimited unless the fields say otherwise."""
        async with self.operator() as operator:
            answer = await operator.post("/api/v1/users/alice/keys", json={"name": "k"} | fields)
        key: dict[str, Any] = answer.raise_for_status().json()
        return key

    async def charges(self) -> list[dict[str, Any]]:
        """Return the ledger, newest row first."""
        rows: list[dict[str, Any]] = []
        async with self.operator() as operator:
            while True:
                after = {"after": rows[-1]["id"]} if rows else {}
                page = await operator.get("/api/v1/charges", params={"limit": "1000", **after})
                rows += page.raise_for_status().json()["data"]
                if page.json()["next"] is None:
                    return rows

    async def charged(self, number: int) -> list[dict[str, Any]]:
        """Return the ledger once it has as many rows."""
        rows: list[dict[str, Any]] = []

        async def enough() -> bool:
            rows[:] = await self.charges()
            return len(rows) >= number

        await until(enough)
        return rows

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of operator.sock."""
        with short_path(self.private_dir / "operator.sock") as path:
            transport = httpx.AsyncHTTPTransport(uds=path)
            async with httpx.AsyncClient(transport=transport, base_url="http://keytoll") as client:
                yield client

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Running"]:
        """Start the containers in order, over fresh volumes but for the state; at the end stop what still runs."""
        self._fresh_volumes()
        nothing = os.open(os.devnull, os.O_RDONLY)
        keytoll = Part(self._program("keytoll", ready=self._startup_probe, kept_fd=nothing))
        envoy = Part(self._program("envoy", ready=self._listens, kept_fd=nothing))
        try:
            await keytoll.start()
            await envoy.start()
            yield Running(self, keytoll, envoy)
        finally:
            await envoy.stop()
            await keytoll.stop()
            os.close(nothing)

    def _fresh_volumes(self) -> None:
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir(parents=True)
        for folder in (self.root / "state/journal", self.root / "state/keytoll", self.private_dir.parent):
            folder.mkdir(parents=True, exist_ok=True)
        (self.run_dir / "journal").symlink_to(self.root / "state/journal")
        if not self.private_dir.is_symlink():
            self.private_dir.symlink_to(self.root / "state/keytoll")
        mounted(self.run_dir / "credentials", {"demo": CREDENTIAL})

    def _program(self, name: str, *, ready: Callable[[], Awaitable[bool]], kept_fd: int) -> Program:
        return Program(
            name=name,
            command=(_tool("keytoll"), *container(name)["args"]),
            cwd=self.root,
            log=self.root / f"{name}.log",
            kept_fd=kept_fd,
            ready=ready,
            environment=self.environment_of(name),
            stop_timeout_s=60,
        )

    async def _startup_probe(self) -> bool:
        path = container("keytoll")["startupProbe"]["httpGet"]["path"]
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get(self.metrics_url.replace("/metrics", path))).is_success
        return False

    async def _listens(self) -> bool:
        """The readiness probe of Envoy's container."""
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.ports.data)
            writer.close()
            return True
        return False

    async def _run(self, name: str, command: tuple[str, ...]) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(_tool(command[0]), *command[1:]),
            env=os.environ | self.environment_of(name),
            cwd=self.root,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()


@dataclass(frozen=True, slots=True)
class Running:
    """The processes of a pod that runs."""

    pod: Pod
    keytoll: Part
    envoy: Part

    async def end(self) -> tuple[int, str]:
        """End the pod as Kubernetes does: the hook, then Envoy, then its sidecar. Returns how the hook ended."""
        hook = await self.pod.pre_stop()
        await self.envoy.stop()
        await self.keytoll.stop()
        return hook


@asynccontextmanager
async def backend(*, token_delay_s: float = 0) -> AsyncIterator[int]:
    """Serve the demo backend, and give its port."""
    async with serve_tcp(create_backend(token_delay_s=token_delay_s), host="127.0.0.1", port=0) as port:
        yield port


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
