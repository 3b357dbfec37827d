"""Callers and people share a socket behind Envoy, and neither reaches what is the other's."""

import httpx
import pytest
from starlette.responses import PlainTextResponse

from keytoll.http.front import create_front
from keytoll.http.reads import KEY_HEADER


@pytest.mark.parametrize(
    ("path", "headers", "served"),
    [
        ("/v1/models", {KEY_HEADER: "key_1"}, "reads"),
        ("/api/v1/keys", {KEY_HEADER: "key_1"}, "reads"),
        ("/", {KEY_HEADER: "key_1"}, "reads"),
        ("/", {KEY_HEADER: ""}, "reads"),
        ("/v1/models", {}, "reads"),
        ("/%76%31/models", {}, "reads"),
        ("/api/v1/keys", {}, "management"),
        ("/", {}, "management"),
    ],
)
async def test_who_came_by_which_listener_is_told_by_the_keys_header(
    path: str, headers: dict[str, str], served: str
) -> None:
    app = create_front(reads=PlainTextResponse("reads"), management=PlainTextResponse("management"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://keytoll") as client:
        assert (await client.get(path, headers=headers)).text == served
