"""The console's files, as they are in the package: read once, at the start, so that no path leads anywhere else.

Nothing in them is a secret, so they ask for no token. A browser asks each time whether it has the newest.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from keytoll.http.errors import error_answer

CONSOLE = Path(__file__).with_name("console")

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
_OTHER_TYPE = "text/plain; charset=utf-8"  # licences


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    type: str
    tag: str


class Pages:
    """Middleware: serves a folder's `index.html` at `/` and its files below `/console/`; the rest is the app's."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self._app = app
        self._files = _files(folder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"]
        if path in self._files or path.startswith("/console/"):
            await _answer(Request(scope), self._files.get(path))(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _files(folder: Path) -> Mapping[str, _File]:
    found = {
        f"/console/{path.relative_to(folder).as_posix()}": _file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return found | {"/": found["/console/index.html"]} if "/console/index.html" in found else found


def _file(path: Path) -> _File:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content, _TYPES.get(path.suffix, _OTHER_TYPE), tag)


def _answer(request: Request, file: _File | None) -> Response:
    if file is None:
        return error_answer(404, "There is no such page", code="not_found")
    if request.method != "GET":
        headers = {"allow": "GET, HEAD"}
        return error_answer(405, "Method not allowed", code="method_not_allowed", headers=headers)
    headers = {"etag": file.tag, "cache-control": "no-cache"}
    if _has(request, file.tag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "content-type": file.type})


def _has(request: Request, tag: str) -> bool:
    """Return whether the browser's copy is this one; a proxy may have weakened its tag."""
    tags = request.headers.get("if-none-match", "").split(",")
    return any(each.strip().removeprefix("W/") in (tag, "*") for each in tags)
