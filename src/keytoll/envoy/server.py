"""The gRPC server that faces Envoy on a UNIX socket: Check, ALS and health, carried by grpcio.

The handlers are plain functions from bytes to bytes; this module only carries them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from keytoll.envoy.check import CHECK_SERVICE, Handler, Void
from keytoll.sockets import prepared, short_path

_log = structlog.get_logger(__name__)

ALS_SERVICE = "envoy.service.accesslog.v3.AccessLogService"

MessageSink = Callable[[bytes], Awaitable[None]]
"""Takes one message of a client's stream. The next one is read only when it returns: so a slow sink slows the sender."""

_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.so_reuseport", 0),
)


class EnvoyServer:
    """Serves Envoy on a UNIX socket until stopped. `als` is served only where it is the source of settlement."""

    def __init__(self, path: Path, *, check: Handler, void: Void, als: MessageSink | None) -> None:
        self._path = path
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_check_service(check, void), *([_als_service(als)] if als else [])))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> None:
        """Listen on the socket, which is then open to its owner and group. Raises OSError."""
        with short_path(prepared(self._path)) as path:
            if self._server.add_insecure_port(f"unix:{path}") == 0:
                raise OSError(f"can't listen on {self._path}")
            await self._server.start()
        self._path.chmod(0o660)
        for service in ("", CHECK_SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, *, grace_s: float) -> None:
        """Refuse new calls, let those under way finish for at most `grace_s`, and close."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def _check_service(handler: Handler, void: Void) -> grpc.GenericRpcHandler:
    async def check(message: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            found = handler(message)
            answer = found if isinstance(found, bytes) else await found
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a CheckRequest")
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - Envoy answers 503 to any error; what it was is for the log, not for the wire
            _log.exception("check_failed")
            await context.abort(grpc.StatusCode.INTERNAL, "Check failed")

        def done(ended: grpc.aio.ServicerContext[Any, Any]) -> None:
            # Envoy cancels the call when it times out or its caller leaves: then the answer reached nobody.
            if ended.cancelled():
                void(answer)

        context.add_done_callback(done)  # type: ignore[arg-type]  # the stubs' protocol is a nominal class
        return answer

    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        check
    )  # no (de)serializers: bytes in, bytes out
    return grpc.method_handlers_generic_handler(CHECK_SERVICE, {"Check": method})


def _als_service(sink: MessageSink) -> grpc.GenericRpcHandler:
    async def stream(messages: AsyncIterator[bytes], _: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        async for message in messages:
            await sink(message)
        return b""

    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(stream)
    return grpc.method_handlers_generic_handler(ALS_SERVICE, {"StreamAccessLogs": method})
