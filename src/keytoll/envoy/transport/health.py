"""The health service of gRPC (grpc.health.v1), by which a prober or Envoy's own health check asks whether Check is served."""

from collections.abc import Callable, Collection

from grpc_health.v1 import health_pb2

from keytoll.envoy.transport.calls import Method, Stream, Unary
from keytoll.envoy.transport.wire import Code, Refused, refusal

HEALTH_SERVICE = "grpc.health.v1.Health"

_Status = health_pb2.HealthCheckResponse.ServingStatus
_UNKNOWN_SERVICE = refusal(Code.NOT_FOUND, "service: not known")


class Health:
    """Tells of each service that it is served, until `stop`. The empty name stands for all of them."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = {"", *services}
        self._status: int = _Status.SERVING
        self._watching: dict[Callable[[bytes], None], str] = {}

    @property
    def methods(self) -> dict[bytes, Method]:
        """The methods of the service, by path."""
        request = "HealthCheckRequest"
        return {
            f"/{HEALTH_SERVICE}/Check".encode(): Unary(self._check, request),
            f"/{HEALTH_SERVICE}/Watch".encode(): Stream(self._watch, request),
        }

    def stop(self) -> None:
        """Tell, to those who watch at once, that nothing is served any longer."""
        self._status = _Status.NOT_SERVING
        for send, service in list(self._watching.items()):
            send(self._answer(service))

    def _check(self, message: bytes) -> bytes:
        service = health_pb2.HealthCheckRequest.FromString(message).service
        if service not in self._services:
            raise Refused(_UNKNOWN_SERVICE)
        return self._answer(service)

    def _watch(self, message: bytes, send: Callable[[bytes], None]) -> Callable[[], None]:
        service = health_pb2.HealthCheckRequest.FromString(message).service
        self._watching[send] = service
        send(self._answer(service))
        return lambda: self._watching.__delitem__(send)

    def _answer(self, service: str) -> bytes:
        status = self._status if service in self._services else _Status.SERVICE_UNKNOWN
        answer: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
        return answer
