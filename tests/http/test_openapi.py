"""The OpenAPI document says what is so: a fuzzer that knows nothing else finds no answer which it doesn't tell of."""

import asyncio
import sys
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from serving import Operated
from starlette.types import ASGIApp, Receive, Scope, Send

from keytoll.http.server import serve_tcp
from keytoll.http.sign_in import SOURCE_HEADER

METHODS = {"get", "put", "post", "delete", "patch"}
EVERYBODYS = {"sign_in", "sign_out", "get_openapi"}
TOLD_IN_PART = {"KeyIn", "KeyPatch"}
FUZZ_S = 100
# A past expiry, a key that is there already and the like: no schema can tell of these.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "422"]
"""


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = [each for path in document["paths"].values() for method, each in path.items() if method in METHODS]
    return {operation["operationId"]: operation for operation in found}


@pytest.fixture
async def document(keytoll: Operated) -> dict[str, Any]:
    document: dict[str, Any] = (await keytoll.http.get("/api/v1/openapi.json")).json()
    return document


async def test_every_operation_is_described(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["servers"] == [{"url": "/"}]
    for operation_id, operation in operations(document).items():
        assert operation["summary"], operation_id
        assert operation["tags"], operation_id
        assert {"400", "500", "503"} <= set(operation["responses"]), operation_id
        assert bool(operation["security"]) is (operation_id not in EVERYBODYS), operation_id
        assert bool(operation["security"]) is ("401" in operation["responses"]) or operation_id == "sign_in"


async def test_every_error_is_in_the_one_shape(document: dict[str, Any]) -> None:
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for operation_id, operation in operations(document).items():
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert answer["content"] == problem, (operation_id, status)


async def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


async def test_all_that_is_sent_and_answered_has_an_example_of_its_schema(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in {name for operation in operations(document).values() for name in schemas_of(operation)}:
        (example,) = schemas[name]["examples"]
        whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        OAS31Validator(whole).validate(example)
        assert example.keys() <= schemas[name]["properties"].keys(), name
        if name not in TOLD_IN_PART:
            assert example.keys() == schemas[name]["properties"].keys(), name


async def test_the_example_of_a_charge_adds_up(document: dict[str, Any]) -> None:
    example = document["components"]["schemas"]["ChargeDetail"]["examples"][0]
    lines = [Decimal(line["count"]) * Decimal(line["price"]) / line["per"] for line in example["lines"]]
    assert lines == [Decimal(line["product"]) for line in example["lines"]]
    assert sum(lines) == Decimal(example["sum"]) == Decimal(example["amount"])


async def test_what_says_when_to_try_again_is_documented(document: dict[str, Any]) -> None:
    for operation_id, operation in operations(document).items():
        for status in {"429", "503"} & operation["responses"].keys():
            assert "Retry-After" in operation["responses"][status]["headers"], (operation_id, status)


def schemas_of(operation: dict[str, Any]) -> set[str]:
    """Return what an operation takes and answers as JSON, by name; the document itself has none."""
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    contents = [body["content"]["application/json"]["schema"] for body in bodies if "content" in body]
    choices = [choice for schema in contents for choice in schema.get("anyOf", [schema])]
    return {choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice}


async def test_an_id_for_repeats_is_documented_where_it_is_taken(document: dict[str, Any]) -> None:
    taking = {
        operation_id
        for operation_id, operation in operations(document).items()
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", []))
    }
    kinds = ("user_", "organization_")
    assert taking == {f"create_{kind}key" for kind in kinds} | {f"rotate_{kind}key" for kind in (*kinds, "")}


async def test_the_document_needs_no_token_and_is_the_same_to_everybody(keytoll: Operated) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(keytoll.people), base_url="http://keytoll") as client:
        to_anyone = await client.get("/api/v1/openapi.json")
    assert to_anyone.json() == (await keytoll.http.get("/api/v1/openapi.json")).json()


async def fuzz(app: ASGIApp, folder: Path, *options: str) -> None:
    """Run Schemathesis, with all its checks, in a process of its own over a real socket."""
    (folder / "schemathesis.toml").write_text(CONFIGURATION, encoding="utf-8")
    async with serve_tcp(app, host="127.0.0.1", port=0) as port:
        process = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("schemathesis"), "run"),
            f"http://127.0.0.1:{port}/api/v1/openapi.json",
            *("--checks", "all", "--seed", "1", "--no-color", "--warnings", "off"),
            *("--generation-database", "none"),
            *options,
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(FUZZ_S):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    assert process.returncode == 0, output.decode()


def from_everywhere(app: ASGIApp) -> ASGIApp:
    """Let each request come from another address: the fuzzer tries wrong tokens more often than one address may."""
    numbers = count()

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        source = (SOURCE_HEADER.encode(), f"192.0.2.1:{next(numbers)}".encode())
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], source]}
        await app(scope, receive, send)

    return serve


@pytest.fixture
async def tokens(keytoll: Operated) -> dict[str, str]:
    """Access tokens of alice, who is an admin of acme, and of bob, a member."""
    tokens = {}
    for name in ("alice", "bob"):
        await keytoll.http.post("/api/v1/users", json={"name": name})
        reset = await keytoll.http.post(f"/api/v1/users/{name}/access-token/reset")
        tokens[name] = reset.json()["secret"]
    await keytoll.http.post("/api/v1/organizations", json={"name": "acme", "admin": "alice"})
    await keytoll.http.put("/api/v1/organizations/acme/members/bob", json={"role": "member"})
    return tokens


async def test_the_api_is_as_documented_to_an_operator(keytoll: Operated, tokens: object, tmp_path: Path) -> None:
    no_gate = ("--exclude-checks", "ignored_auth")  # no token is asked for at the operator's socket
    await fuzz(keytoll.operators, tmp_path, "--phases", "coverage", *no_gate)


async def test_the_api_is_as_documented_to_a_person(keytoll: Operated, tokens: dict[str, str], tmp_path: Path) -> None:
    header = ("-H", f"Authorization: Bearer {tokens['alice']}")
    own_token = ("--exclude-operation-id", "reset_access_token", "--exclude-operation-id", "revoke_access_token")
    phases = ("--phases", "examples,fuzzing,stateful", "--max-examples", "10")
    await fuzz(from_everywhere(keytoll.people), tmp_path, *phases, *header, *own_token)
