"""What is served at `api.sock`, behind Envoy: to callers the reads with their own key, to people console and API.

Callers come by Envoy's data listener, which names the key that Check let through; people by its management listener,
which never passes that header on. So neither can reach what is the other's.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from keytoll.http.reads import KEY_HEADER


def create_front(*, reads: ASGIApp, management: ASGIApp) -> ASGIApp:
    """Return the app of `api.sock`."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (KEY_HEADER in Headers(scope=scope) or scope["path"].startswith("/v1/")):
            await reads(scope, receive, send)
        else:
            await management(scope, receive, send)

    return serve
