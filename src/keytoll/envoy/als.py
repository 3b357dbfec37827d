"""ALS: Envoy's gRPC access log as the source of settlement, for an Envoy that shares no disk with its Keytoll."""

from collections.abc import Callable

import structlog
from google.protobuf.message import DecodeError

from keytoll.envoy.entries import UnreadableEntry, from_als
from keytoll.envoy.messages.access_log_pb2 import StreamAccessLogsMessage
from keytoll.settlement import Settlement
from keytoll.store.base import Rejected

_log = structlog.get_logger(__name__)

_KEPT_TEXT = 4096


class AlsSink:
    """Settles the entries of each message before the next one is read from its stream.

    Of a request that ended before Envoy had Check's answer ALS tells nothing that Keytoll would know it by, as the journal
    does; its hold stays until the loss detector finds it unsettled, after the longest time that a request may take.
    """

    def __init__(self, settlement: Settlement, *, clock: Callable[[], int]) -> None:
        self._settlement = settlement
        self._clock = clock

    async def __call__(self, message: bytes) -> None:
        """Settle one StreamAccessLogsMessage."""
        try:
            entries = StreamAccessLogsMessage.FromString(message).http_logs.log_entry
        except DecodeError as error:
            _log.error("als_message_unreadable", error=str(error), bytes=len(message))
            return
        logged, rejected = [], []
        for entry in entries:
            try:
                item = from_als(entry)
            except UnreadableEntry as error:
                rejected.append(Rejected(f"unreadable ALS entry ({error})", str(entry)[:_KEPT_TEXT], self._clock()))
            else:
                if item is not None:
                    logged.append(item)
        if logged or rejected:
            await self._settlement.post(logged, rejected=rejected)
