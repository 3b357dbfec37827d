"""The whole life of a key, of a person and of an organization, managed over Envoy's listener for people.

By REST, and by the command line on another machine than Keytoll's, each as the person whose access token it is.
"""

import asyncio
import csv
import io
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from e2e.conftest import CHAT, Gateway, until

ASK: list[Any] = [{"role": "user", "content": "Tell me about tolls, please!"}]
KINDS = ("users", "organizations")
_people = count(1)


@dataclass(frozen=True, slots=True)
class Someone:
    """A person who is admin of an organization of the own name, with an access token."""

    name: str
    token: str


class Manager(ABC):
    """What a person does with keys."""

    @abstractmethod
    async def create(self, owner: str, name: str) -> dict[str, Any]: ...

    @abstractmethod
    async def limit(self, key: dict[str, Any], total: str) -> dict[str, Any]: ...

    @abstractmethod
    async def rotate(self, key: dict[str, Any]) -> dict[str, Any]: ...

    @abstractmethod
    async def delete(self, key: dict[str, Any]) -> None: ...

    @abstractmethod
    async def charges(self, owner: str) -> list[dict[str, Any]]: ...

    @abstractmethod
    async def csv(self, owner: str) -> str: ...

    @abstractmethod
    async def usage(self, owner: str) -> dict[str, Any]: ...


class Rest(Manager):
    """By REST."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def create(self, owner: str, name: str) -> dict[str, Any]:
        return await self._json("POST", f"/{owner}/keys", json={"name": name, "quota": {"kind": "total", "limit": "5"}})

    async def limit(self, key: dict[str, Any], total: str) -> dict[str, Any]:
        quota = {"kind": "total", "limit": total}
        return await self._json("PATCH", f"/{key['owner']}/keys/{key['id']}", json={"quota": quota})

    async def rotate(self, key: dict[str, Any]) -> dict[str, Any]:
        return await self._json("POST", f"/{key['owner']}/keys/{key['id']}/rotate")

    async def delete(self, key: dict[str, Any]) -> None:
        assert (await self._http.delete(f"/{key['owner']}/keys/{key['id']}")).status_code == 204

    async def charges(self, owner: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._json("GET", f"/{owner}/charges"))["data"]
        return found

    async def csv(self, owner: str) -> str:
        return (await self._http.get(f"/{owner}/charges", headers={"accept": "text/csv"})).raise_for_status().text

    async def usage(self, owner: str) -> dict[str, Any]:
        return await self._json("GET", f"/{owner}/usage", params={"group_by": "key,model"})

    async def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._http.request(method, path, **options)).raise_for_status().json()
        return answer


class CommandLine(Manager):
    """By the command line, as a process that knows the address and the token alone."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder

    async def create(self, owner: str, name: str) -> dict[str, Any]:
        return await self._json("keys", "create", owner, "--name", name, "--total", "5")

    async def limit(self, key: dict[str, Any], total: str) -> dict[str, Any]:
        return await self._json("keys", "edit", key["id"], "--total", total)

    async def rotate(self, key: dict[str, Any]) -> dict[str, Any]:
        return await self._json("keys", "rotate", key["id"])

    async def delete(self, key: dict[str, Any]) -> None:
        await self._json("keys", "delete", key["id"], "--yes")

    async def charges(self, owner: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(await self._out("charges", "list", "--owner", owner, "--json"))
        return found

    async def csv(self, owner: str) -> str:
        return await self._out("charges", "export", "--owner", owner)

    async def usage(self, owner: str) -> dict[str, Any]:
        return await self._json("usage", "--owner", owner, "--by", "key", "--by", "model")

    async def _json(self, *arguments: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self._out(*arguments, "--json"))
        return answer

    async def _out(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "keytoll.cli", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            cwd=self._folder,
        )
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        return out.decode()


@pytest.fixture
async def someone(gateway: Gateway) -> Someone:
    name = f"person-{next(_people)}"
    async with gateway.stack.operator() as operator:

        async def post(path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
            answer: dict[str, Any] = (await operator.post(f"/api/v1/{path}", json=body)).raise_for_status().json()
            return answer

        await post("users", {"name": name})
        await post("organizations", {"name": name, "admin": name})
        token = (await post(f"users/{name}/access-token/reset"))["secret"]
    return Someone(name, token)


@asynccontextmanager
async def managed(way: str, gateway: Gateway, someone: Someone, folder: Path) -> AsyncIterator[Manager]:
    """Manage keys in a way, as a person."""
    if way == "rest":
        headers = {"authorization": f"Bearer {someone.token}"}
        async with httpx.AsyncClient(base_url=gateway.stack.api_url, headers=headers, timeout=60) as http:
            yield Rest(http)
    else:
        where = {"KEYTOLL_SERVER": gateway.stack.console_url, "KEYTOLL_ACCESS_TOKEN": someone.token}
        yield CommandLine({**os.environ, **where, "XDG_CONFIG_HOME": str(folder)}, folder)


async def ask(gateway: Gateway, key: dict[str, Any]) -> Decimal:
    """Call the gateway as its callers do; return what it costs by the tokens that the answer tells."""
    async with gateway.sdk(key) as client:
        usage = (await client.chat.completions.create(model=CHAT, messages=ASK)).usage
    assert usage is not None
    return (usage.prompt_tokens * Decimal(4) + usage.completion_tokens * Decimal(12)) / 1_000_000


async def settled(manager: Manager, owner: str, number: int) -> list[dict[str, Any]]:
    """Return an owner's charges once there are as many."""

    async def enough() -> list[dict[str, Any]] | None:
        found = await manager.charges(owner)
        return found if len(found) >= number else None

    return await until(enough)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["rest", "command line"])
async def test_a_key_is_made_used_seen_edited_rotated_and_deleted(
    gateway: Gateway, someone: Someone, tmp_path: Path, way: str, kind: str
) -> None:
    owner = f"{kind}/{someone.name}"
    async with managed(way, gateway, someone, tmp_path) as manager:
        key = await manager.create(owner, "production")
        spent = await ask(gateway, key)
        (charge,) = await settled(manager, owner, 1)
        assert (charge["key_id"], charge["key_name"], Decimal(charge["amount"])) == (key["id"], "production", spent)
        (row,) = rows(await manager.csv(owner))
        assert (row["id"], row["owner"], Decimal(row["amount"])) == (charge["id"], owner, spent)
        (sums,) = (await manager.usage(owner))["data"]
        assert (sums["key_id"], sums["model"], sums["requests"]) == (key["id"], CHAT, 1)
        assert Decimal(sums["amount"]) == spent

        limited = await manager.limit(key, "0.000001")
        assert (Decimal(limited["used"]), limited["quota"]["limit"]) == (spent, "0.000001")
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(gateway, key)
        assert refused.value.code == "insufficient_quota"

        await manager.limit(key, "5")
        rotated = await manager.rotate(key)
        assert rotated["id"] == key["id"]
        with pytest.raises(openai.AuthenticationError):
            await ask(gateway, key)
        spent += await ask(gateway, rotated)
        await settled(manager, owner, 2)

        await manager.delete(rotated)
        with pytest.raises(openai.AuthenticationError) as gone:
            await ask(gateway, rotated)
        assert gone.value.code == "invalid_api_key"
        total = (await manager.usage(owner))["total"]
        assert (total["requests"], Decimal(total["amount"])) == (2, spent)


@pytest.mark.parametrize("way", ["rest", "command line"])
async def test_what_one_person_uses_is_charged_to_whomever_the_key_belongs_to(
    gateway: Gateway, someone: Someone, tmp_path: Path, way: str
) -> None:
    """The same person calls with a key of one's own and one of the organization: the books of both are apart."""
    own, shared = (f"{kind}/{someone.name}" for kind in KINDS)
    async with managed(way, gateway, someone, tmp_path) as manager:
        keys = {owner: await manager.create(owner, "same name") for owner in (own, shared)}
        spent = {own: await ask(gateway, keys[own])}
        spent[shared] = await ask(gateway, keys[shared]) + await ask(gateway, keys[shared])
        for owner, number in ((own, 1), (shared, 2)):
            await settled(manager, owner, number)
            exported = rows(await manager.csv(owner))
            assert {(row["owner"], row["key_id"]) for row in exported} == {(owner, keys[owner]["id"])}
            assert sum(Decimal(row["amount"]) for row in exported) == spent[owner]
            usage = await manager.usage(owner)
            assert [row["key_id"] for row in usage["data"]] == [keys[owner]["id"]]
            assert (usage["total"]["requests"], Decimal(usage["total"]["amount"])) == (number, spent[owner])
