"""`make run` starts all or says in a line why not, and leaves nothing running."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from keytoll.demo.ports import VARIABLES, Ports
from keytoll.demo.stack import PROJECT, rendered_envoy_yaml
from keytoll.settings import CannotStart

PATIENCE_S = 30.0


def until(ask: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not ask():
        assert time.monotonic() < end_s, f"not within {PATIENCE_S} s"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended but was not waited for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Launcher:
    """The launcher with ports and a run folder of its own."""

    def __init__(self, run_dir: Path, **variables: str) -> None:
        ports = Ports.free()
        numbers = {variable: str(getattr(ports, name)) for name, variable in VARIABLES.items()}
        self.run_dir = run_dir
        self.catalog = run_dir.with_name(f"{run_dir.name}.yaml")
        text = (PROJECT / "keytoll.yaml").read_text(encoding="utf-8")
        self.catalog.write_text(text.replace(":8082", f":{ports.backend}"), encoding="utf-8")
        self.environment = numbers | {"RUN_DIR": str(run_dir), "CATALOG": str(self.catalog)} | variables

    @contextlib.contextmanager
    def started(self) -> Iterator["subprocess.Popen[str]"]:
        """The launcher as a process, once ready; its output is piped."""
        process = self.process()
        try:
            until(lambda: (self.run_dir / "demo.json").exists() or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()
            process.communicate()

    def process(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "keytoll.demo"],
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def refusal(self) -> str:
        """What it says when it doesn't start."""
        process = self.process()
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out) == (1, "")
        return err

    @property
    def demo(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run_dir / "demo.json").read_text(encoding="utf-8"))
        return content


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    return Launcher(tmp_path / "run")


def test_what_it_prints_works_and_a_signal_stops_all_in_order(launcher: Launcher) -> None:
    with launcher.started() as process:
        demo = launcher.demo
        assert (launcher.run_dir / "demo.json").stat().st_mode & 0o777 == 0o600
        fields = {"base_url", "api_key", "console_url", "api_url", "access_token", "metrics_url", "pids"}
        assert set(demo) == fields
        headers = {"authorization": f"Bearer {demo['api_key']}"}
        body = {"model": "Qwen2.5-72B-Instruct", "messages": [{"role": "user", "content": "Hello!"}]}
        answer = httpx.post(f"{demo['base_url']}/chat/completions", headers=headers, json=body, trust_env=False)
        assert answer.json()["usage"]["prompt_tokens"] == 2
        assert httpx.get(demo["metrics_url"], trust_env=False).status_code == 200
        token = {"authorization": f"Bearer {demo['access_token']}"}
        me = httpx.get(f"{demo['api_url']}/me", headers=token, trust_env=False).json()
        assert me["owner"] == "users/demo"
        assert me["organizations"] == [{"name": "demo-org", "owner": "organizations/demo-org", "role": "admin"}]
        assert demo["console_url"] in demo["api_url"]

        assert "is in use by process" in Launcher(launcher.run_dir).refusal()

        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    assert f"curl {demo['base_url']}/chat/completions" in out
    assert out.count(demo["api_key"]) == 3
    assert out.count(demo["access_token"]) == 1
    assert out.endswith("Stopped.\n")
    assert set(demo["pids"]) == {"envoy", "keytoll", "backend"}
    assert not any(alive(pid) for pid in demo["pids"].values())
    assert not (launcher.run_dir / "demo.json").exists()


def test_no_part_outlives_a_killed_launcher_and_the_next_one_starts_over_its_remains(launcher: Launcher) -> None:
    with launcher.started() as process:
        demo = launcher.demo
        process.kill()
        process.wait()
        (launcher.run_dir / "demo.json").unlink()
        with launcher.started():
            assert not any(alive(pid) for pid in demo["pids"].values())
            assert launcher.demo["api_key"] != demo["api_key"]
            assert launcher.demo["access_token"] != demo["access_token"]


@pytest.mark.parametrize("part", ["envoy", "keytoll", "backend"])
def test_a_part_that_dies_is_named_and_the_rest_stops(launcher: Launcher, part: str) -> None:
    with launcher.started() as process:
        pids = launcher.demo["pids"]
        os.kill(pids[part], signal.SIGKILL)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err.startswith(f"{part} ended (by SIGKILL); the end of {launcher.run_dir}/{part}.log:\n")
    assert not any(alive(pid) for pid in pids.values())


@pytest.mark.parametrize("name", list(VARIABLES))
def test_a_port_in_use_is_named_with_its_variable(launcher: Launcher, name: str) -> None:
    variable = VARIABLES[name]
    with socket.create_server(("127.0.0.1", int(launcher.environment[variable]))):
        refusal = launcher.refusal()
    port = launcher.environment[variable]
    assert refusal == f"port {port} is in use: stop what uses it, or set {variable} to another one\n"


def test_every_mistake_of_the_catalog_has_its_line(launcher: Launcher) -> None:
    launcher.catalog.write_text(
        "currency: CNY\nbilling_time_zone: Mars/Olympus\nmodels: {}\nextra: 1\n", encoding="utf-8"
    )
    lines = launcher.refusal().splitlines()
    assert len(lines) >= 2
    assert all(re.match(rf"{launcher.catalog}:\d: \w+: .", line) for line in lines)


def test_what_keytoll_says_when_it_does_not_start_is_passed_on(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "run", KEYTOLL_SOURCE="nonsense")
    refusal = launcher.refusal()
    assert refusal.startswith("keytoll ended (exit status ")
    assert "nonsense" in refusal


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"DATA_PORT": "http"}, "DATA_PORT must be a port number from 1 to 65535, not 'http'"),
        ({"METRICS_PORT": "70000"}, "METRICS_PORT must be a port number from 1 to 65535, not '70000'"),
        ({"BACKEND_PORT": "1"}, "BACKEND_PORT is 1, but no backend in "),
        ({"CATALOG": "/nowhere/keytoll.yaml"}, "/nowhere/keytoll.yaml: "),
        ({"RUN_DIR": "/proc/nowhere"}, "can't use /proc/nowhere as RUN_DIR: "),
        ({"KEYTOLL_ENVOY": "/nowhere/envoy"}, "KEYTOLL_ENVOY names /nowhere/envoy, "),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    refusal = Launcher(tmp_path / "run", **variables).refusal()
    assert refusal.startswith(said)
    assert refusal.count("\n") == 1


def test_two_variables_cannot_set_one_port() -> None:
    with pytest.raises(CannotStart, match="port 1 is set twice: by DATA_PORT and METRICS_PORT"):
        Ports(data=1, metrics=1).check_free()


def test_ports_are_put_into_envoys_configuration_at_once() -> None:
    """So that a data port of 8081 doesn't become the management port."""
    ports = Ports(data=8081, management=8080)
    assert rendered_envoy_yaml("a: port_value: 8080\nb: port_value: 8081", ports) == (
        "a: port_value: 8081\nb: port_value: 8080"
    )


@pytest.mark.parametrize("text", ["", "port_value: 8081", "port_value: 8080\nport_value: 8080", "port_value: 80801"])
def test_a_configuration_without_the_known_ports_is_refused(text: str) -> None:
    with pytest.raises(CannotStart, match="must listen on 8080"):
        rendered_envoy_yaml(text, Ports())
