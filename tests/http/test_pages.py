"""The console's files: the newest ones, nothing but them, and to everybody."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from keytoll.http.errors import error_answer
from keytoll.http.guard import Guard
from keytoll.http.pages import CONSOLE, Pages
from keytoll.metrics import Metrics


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    await error_answer(404, "the API")(scope, receive, send)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "console" / "app").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "console" / "index.html").write_text("<title>Keytoll</title>")
    (tmp_path / "console" / "app" / "main.js").write_text("export default 1;")
    (tmp_path / "console" / "app" / "font.LICENSE").write_text("free")
    return tmp_path / "console"


@pytest.fixture
async def http(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Guard(Pages(api, folder), Metrics()))
    async with httpx.AsyncClient(transport=transport, base_url="http://keytoll") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/", "text/html; charset=utf-8", "<title>Keytoll</title>"),
        ("/console/index.html", "text/html; charset=utf-8", "<title>Keytoll</title>"),
        ("/console/app/main.js", "text/javascript; charset=utf-8", "export default 1;"),
        ("/console/app/font.LICENSE", "text/plain; charset=utf-8", "free"),
        ("/?x=1", "text/html; charset=utf-8", "<title>Keytoll</title>"),
    ],
)
async def test_files_are_served_by_their_kind(http: httpx.AsyncClient, path: str, kind: str, text: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, kind, text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/console/",
        "/console/app",
        "/console/nothing.js",
        "/console/../secret.txt",
        "/console/%2e%2e/secret.txt",
        "/console/..%2fsecret.txt",
        "/console//index.html",
        "/console/%00",
    ],
)
async def test_nothing_else_is_a_page(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(httpx.URL("http://keytoll", raw_path=path.encode()))
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert "secret" not in answer.text


async def test_what_is_no_page_is_the_apis(http: httpx.AsyncClient) -> None:
    for path in ("/console", "/index.html", "/api/v1/me"):
        assert (await http.get(path)).json()["error"]["message"] == "the API"


async def test_a_browser_fetches_a_file_again_only_if_it_changed(http: httpx.AsyncClient) -> None:
    first = await http.get("/console/app/main.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}'):
        again = await http.get("/console/app/main.js", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await http.get("/console/app/main.js", headers={"if-none-match": '"x"'})).status_code == 200


async def test_files_can_only_be_read(http: httpx.AsyncClient) -> None:
    head = await http.head("/")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "22")
    answer = await http.post("/", json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_the_console_is_in_the_package() -> None:
    assert (CONSOLE / "index.html").is_file()
