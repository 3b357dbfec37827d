"""What is refused, and how SDKs see it: always OpenAI's error shape, with a status and headers that say what helps."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from e2e.conftest import CHAT, Gateway
from e2e.scripted import answering

CHAT_PATH = "/v1/chat/completions"
ASK = {"model": CHAT, "messages": [{"role": "user", "content": "Hello"}]}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error; fail unless it has exactly OpenAI's shape."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert "gw-sk-0" not in response.text
    error: dict[str, Any] = body["error"]
    return error


async def raw(gateway: Gateway, request: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes as they are; return the status and the error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.stack.settings.ports.data)
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    writer.close()
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer sk-123", "Bearer gw-sk-short", "Basic Z3c6c2s=", "Bearer gw-at-" + "0" * 49],
)
async def test_without_a_well_formed_key_nothing_is_answered(gateway: Gateway, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    async with gateway.http() as client:
        response = await client.post(CHAT_PATH, json=ASK, headers=headers)
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (401, "invalid_request_error", "invalid_api_key")
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/", "GET", 404, "not_found"),
        ("/v1/files", "POST", 404, "not_found"),
        ("/v1/chat/completions/", "POST", 404, "not_found"),
        ("/v1/chat/completions/chatcmpl-1", "GET", 404, "not_found"),
        ("/V1/chat/completions", "POST", 404, "not_found"),
        ("/v1/responses/resp_1", "DELETE", 404, "not_found"),
        ("/healthz/../v1/files", "GET", 404, "not_found"),
        (CHAT_PATH, "GET", 405, "method_not_allowed"),
        (CHAT_PATH, "DELETE", 405, "method_not_allowed"),
        (CHAT_PATH, "PUT", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_in_the_table_of_endpoints_is_refused(
    gateway: Gateway, key: dict[str, Any], path: str, method: str, status: int, code: str
) -> None:
    """User report 17."""
    async with gateway.http(key) as client:
        response = await client.request(method, path, json=ASK)
    assert (response.status_code, error_of(response)["code"]) == (status, code)


@pytest.mark.parametrize(
    "path", ["/healthz/../v1/models", "/%2e%2e/v1/x", "/v1/..%2fadmin", "/v1/..%5cx", "//v1//x", "/."]
)
@pytest.mark.parametrize("with_key", [False, True])
async def test_no_spelling_of_a_path_gets_past(
    gateway: Gateway, key: dict[str, Any], path: str, *, with_key: bool
) -> None:
    authorization = f"Authorization: Bearer {key['secret']}\r\n" if with_key else ""
    status, _ = await raw(gateway, f"GET {path} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n".encode())
    assert 400 <= status < 500


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 426),
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nAuthorization: Bearer gw-sk-x\r\n\r\n", 403),
        (b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 403),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX_Under_Score: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    ],
)
async def test_bad_http_is_refused_in_the_same_shape(gateway: Gateway, request_bytes: bytes, status: int) -> None:
    got, error = await raw(gateway, request_bytes)
    assert got == status
    assert set(error) == {"message", "type", "param", "code"}


BODIES: list[tuple[bytes, str | None]] = [
    (b"{not json", None),
    (b"", "model"),
    (b"[]", "model"),
    (b'{"messages":[]}', "model"),
    (b'{"model":null}', "model"),
    (b'{"model":""}', "model"),
    (b'{"model":5}', "model"),
    (b'{"model":["a"]}', "model"),
    (b'{"model":"CHAT","stream":"true"}', "stream"),
    (b'{"model":"CHAT","stream":1}', "stream"),
    (b'{"model":"CHAT","stream":[true]}', "stream"),
    (b'{"model":"CHAT","stream":true,"stream_options":{"include_usage":"yes"}}', "stream_options.include_usage"),
    (b'{"model":"CHAT","stream":true,"stream_options":[]}', "stream_options"),
    (b'{"model":"CHAT","max_tokens":1.5}', "max_tokens"),
    (b'{"model":"CHAT","max_tokens":"5"}', "max_tokens"),
    (b'{"model":"CHAT","max_completion_tokens":-1}', "max_completion_tokens"),
    (b'{"model":"CHAT","n":true}', "n"),
    (b'{"model":"CHAT","n":{}}', "n"),
    (b'{"model":"CHAT","store":true}', "store"),
    (b'{"model":"CHAT","background":true}', "background"),
    (b'{"model":"CHAT","previous_response_id":"resp_1"}', "previous_response_id"),
    (b'{"model":"CHAT","conversation":"conv_1"}', "conversation"),
    (b'{"model":"CHAT","conversation":{"id":"conv_1"}}', "conversation"),
    (b'{"model":"CHAT","stream":"' + b"1" * 9_000 + b'"}', "stream"),  # json_to_metadata sees no string of over 8 KiB
    (b'{"model":"CHAT","max_tokens":"' + b"1" * 9_000 + b'"}', "max_tokens"),
    (b'{"model":"CHAT","previous_response_id":"' + b"1" * 9_000 + b'"}', "previous_response_id"),
    (b'{"model":"CHAT","store":"' + b"1" * 9_000 + b'"}', "store"),
    (b'{"model":"CHAT","conversation":{"x":"y"}}', "conversation"),
    (b'{"model":"CHAT","service_tier":"priority"}', "service_tier"),
    (b'{"model":"CHAT","generation_config":{"max_new_tokens":1500}}', "generation_config"),
    (b'{"model":"CHAT","n_predict":1500}', "n_predict"),
    (b'{"model":"CHAT"}\x00{"model":"odd"}', None),
    (b'{"model":"CHAT","Model":"b"}', "model"),
    (b'{"model":"CHAT","model":"CHAT"}', "model"),
    (b'{"model":"CHAT","STREAM":true}', "stream"),
    (b'{"model":"CHAT","str\\u0065am":true}', None),
    (b'{"model":"CHAT","max_tokens":1e999}', None),
    (b'{"model":"CHAT"} trailing', None),
]


@pytest.mark.parametrize(("body", "param"), BODIES)
async def test_a_body_that_is_wrong_or_ambiguous_is_refused_and_the_field_named(
    gateway: Gateway, key: dict[str, Any], body: bytes, param: str | None
) -> None:
    async with gateway.http(key) as client:
        response = await client.post(
            CHAT_PATH, content=body.replace(b"CHAT", CHAT.encode()), headers={"content-type": "application/json"}
        )
    error = error_of(response)
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_a_post_that_is_not_json_is_refused(
    gateway: Gateway, key: dict[str, Any], content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, content=json.dumps(ASK).encode(), headers=headers)
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")


async def test_a_compressed_body_is_refused(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        response = await client.post(
            CHAT_PATH,
            content=b"\x1f\x8b\x08\x00",
            headers={"content-type": "application/json", "content-encoding": "gzip"},
        )
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("model", ["gpt-4", CHAT.lower(), f"model/{CHAT}"])
async def test_an_unknown_model_is_not_found(gateway: Gateway, key: dict[str, Any], model: str) -> None:
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={**ASK, "model": model})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_a_backends_own_error_passes_through_untouched_and_costs_nothing(
    gateway: Gateway, key: dict[str, Any]
) -> None:
    gateway.odd.script = answering({"error": {"message": "bad temperature", "extra": 1}}, status=400)
    async with gateway.http(key) as client:
        response = await client.post(CHAT_PATH, json={**ASK, "model": "odd"})
    assert (response.status_code, response.json()) == (400, {"error": {"message": "bad temperature", "extra": 1}})
    charge = await gateway.charge(key)
    assert (charge["amount"], charge["status"], charge["measured"]) == ("0.00", 400, "none")


async def test_no_refusal_leaves_a_charge(gateway: Gateway, key: dict[str, Any]) -> None:
    async with gateway.http(key) as client:
        for body in ({**ASK, "model": "nope"}, {**ASK, "stream": "true"}, ASK):
            await client.post(CHAT_PATH, json=body)
    charge = await gateway.charge(key)
    assert (charge["status"], charge["model"]) == (200, CHAT)


async def test_a_request_that_lua_refuses_is_a_row_of_nothing(gateway: Gateway, key: dict[str, Any]) -> None:
    """It was admitted by Check, so it has a decision, and every decision ends in one charge."""
    async with gateway.http(key) as client:
        await client.post(
            CHAT_PATH, content=b'{"model":"odd","Model":"b"}', headers={"content-type": "application/json"}
        )
    charge = await gateway.charge(key)
    assert (charge["amount"], charge["status"], charge["attempts"]) == ("0.00", 400, 0)
    assert gateway.odd.asked == []
