"""Log entries as Envoy writes them, in the journal and by ALS."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from told import told

from keytoll.core.ids import uuid7
from keytoll.envoy.messages.access_log_pb2 import HttpAccessLogEntry, StreamAccessLogsMessage
from settlement.conftest import NOW_US, PRICES


def decision(number: int) -> UUID:
    return uuid7(NOW_US, number.to_bytes(10))


def facts(number: int, **changes: str) -> dict[str, str]:
    return {
        "decision_id": str(decision(number)),
        "key_id": "key_1",
        "owner": "users/alice",
        "model": "m",
        "endpoint": "chat/completions",
        "price_id": PRICES.id,
        "prices": PRICES.as_text,
        "admitted_at_us": str(NOW_US + number),
        "month": "2026-09",
        "hold_nano": "1000000000",
        "rates": "250 250 1000",
        **changes,
    }


def record(number: int, *, usage: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A finished request with 10 tokens in and `number` out, unless told otherwise."""
    return {
        "v": 2,
        "type": "DownstreamEnd",
        "start": "1789999999.500000",
        "ms": 250,
        "status": 200,
        "attempts": 1,
        "received": 120,
        "sent": 80,
        "lua": None,
        **told(facts(number)),
        "usage": {"prompt_tokens": 10, "completion_tokens": number} if usage is None else usage,
        **changes,
    }


def line(number: int, **changes: Any) -> bytes:
    return json.dumps(record(number, **changes)).encode() + b"\n"


def earlier_line(number: int, facts: Mapping[str, Any], **changes: Any) -> bytes:
    """As an earlier Keytoll and its envoy.yaml have told it: each fact by itself."""
    told = {name: value for name, value in record(number, **changes).items() if name not in ("decision_id", "entry")}
    return json.dumps({**told, "v": 1, "check": facts}).encode() + b"\n"


def gone_line(request_id: Any, **changes: Any) -> bytes:
    """Tells that a request ended before Envoy had Check's answer."""
    return json.dumps({"v": 1, "type": "DownstreamEnd", "gone": request_id, **changes}).encode() + b"\n"


def amount(number: int) -> int:
    return 10 * 4_000 + number * 12_000


def charge(number: int) -> tuple[str, int]:
    return str(decision(number)), amount(number)


def als_message(*numbers: int) -> bytes:
    message = StreamAccessLogsMessage()
    for number in numbers:
        message.http_logs.log_entry.append(als_entry(number))
    return message.SerializeToString()


def als_entry(number: int) -> HttpAccessLogEntry:
    entry = HttpAccessLogEntry()
    common = entry.common_properties
    common.access_log_type = 6
    common.upstream_request_attempt_count = 1
    common.start_time.FromMicroseconds(NOW_US)
    common.metadata.filter_metadata["envoy.filters.http.ext_authz"].update(told(facts(number)))
    common.metadata.filter_metadata["kt.usage"].update({"prompt_tokens": 10, "completion_tokens": number})
    entry.request.request_body_bytes = 120
    entry.response.response_code.value = 200
    entry.response.response_body_bytes = 80
    return entry
