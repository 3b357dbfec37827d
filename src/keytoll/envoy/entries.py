"""Log entries: from what Envoy's journal or its gRPC access log (ALS) say to core's `Entry`.

Both sources give the same entry for the same request, so that either, or both, settle it once.
"""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict

from keytoll.core.ledger import Entry, usage_from
from keytoll.envoy.messages.access_log_pb2 import HttpAccessLogEntry
from keytoll.settlement import Logged

CHECK = "envoy.filters.http.ext_authz"
"""The metadata namespace of Check's answer."""

USAGE = "kt.usage"
"""The metadata namespace in which envoy.yaml leaves the usage that a backend reported."""

_DOWNSTREAM_END = 6  # envoy.data.accesslog.v3.AccessLogType


class UnreadableEntry(ValueError):
    """The entry isn't one of ours or lacks what settlement needs."""


def from_journal(line: bytes) -> Logged | None:
    """Return the entry of one line of the journal; None if the request isn't over yet. Raises UnreadableEntry."""
    try:
        record = json.loads(line)
        if record["type"] != "DownstreamEnd":
            return None
        return Logged(
            entry=_entry(record["check"], status=record["status"], attempts=record["attempts"], usage=record["usage"]),
            ended_at_us=_seconds_to_us(record["start"]) + record["ms"] * 1000,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableEntry(f"{type(error).__name__}: {error}") from error


def from_als(message: HttpAccessLogEntry) -> Logged | None:
    """Return the entry of one ALS record; None if it isn't an admitted request that is over. Raises UnreadableEntry."""
    common = message.common_properties
    metadata = common.metadata.filter_metadata
    if common.access_log_type not in (0, _DOWNSTREAM_END) or CHECK not in metadata:
        return None
    try:
        return Logged(
            entry=_entry(
                MessageToDict(metadata[CHECK]),
                status=message.response.response_code.value,
                attempts=common.upstream_request_attempt_count,
                usage=MessageToDict(metadata[USAGE]) if USAGE in metadata else None,
            ),
            ended_at_us=common.start_time.ToMicroseconds() + common.time_to_last_downstream_tx_byte.ToMicroseconds(),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableEntry(f"{type(error).__name__}: {error}") from error


def _entry(check: Mapping[str, Any], *, status: Any, attempts: Any, usage: Any) -> Entry:
    return Entry(
        decision_id=UUID(_text(check, "decision_id")),
        key_id=_text(check, "key_id"),
        owner=_text(check, "owner"),
        model=_text(check, "model"),
        endpoint=_text(check, "endpoint"),
        price_id=_text(check, "price_id"),
        admitted_at_us=int(_text(check, "admitted_at_us")),
        month=_text(check, "month"),
        status=_count(status),
        attempts=_count(attempts),
        usage=usage_from(usage) if usage is not None else None,
    )


def _text(check: Mapping[str, Any], name: str) -> str:
    value = check[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value


def _count(value: Any) -> int:
    """Return a number of the log; Envoy writes null where it has none."""
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise TypeError("a count is not a whole number")
    return value


def _seconds_to_us(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole) * 1_000_000 + int(fraction.ljust(6, "0")[:6])
