"""The manifests as kubectl renders them, and the tools that look at them."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from deploy.pod import DEPLOY, PROJECT

BIN = Path(sys.executable).parent


async def run(*command: str | Path, cwd: Path = PROJECT) -> str:
    """Return what a tool prints; fail with it if the tool does."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def rendered(folder: Path) -> list[Any]:
    """Return the objects that a kustomization makes."""
    return list(YAML(typ="safe", pure=True).load_all(await run(BIN / "kubectl", "kustomize", folder)))


def of_kind(objects: list[Any], kind: str) -> Any:
    """Return the one object of a kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def pod_of(objects: list[Any]) -> Any:
    """Return what the StatefulSet makes."""
    return of_kind(objects, "StatefulSet")["spec"]["template"]


def containers_of(spec: Any) -> dict[str, Any]:
    """Return the containers of a pod by name."""
    return {each["name"]: each for each in [*spec.get("initContainers", ()), *spec["containers"]]}


def with_components(folder: Path, overlay: str, *components: str) -> Path:
    """Return a copy of an overlay to which components of deploy/ are added, as an operator adds them."""
    shutil.copytree(DEPLOY, folder / "deploy")
    copy = folder / "deploy/overlays" / overlay
    with (copy / "kustomization.yaml").open("a") as file:
        file.write(f"components: {json.dumps([f'../../{each}' for each in components])}\n")
    return copy
