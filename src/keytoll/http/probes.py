"""What Prometheus and the kubelet ask for: metrics, liveness and readiness."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


def create_probes(registry: CollectorRegistry, ready: Callable[[], Sequence[str]]) -> Starlette:
    """Return an app with `/metrics`, `/healthz` and `/readyz`. `ready` names what is not ready yet, nothing if all is."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        missing = list(ready())
        return JSONResponse({"ready": not missing, "not_ready": missing}, status_code=503 if missing else 200)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)])
