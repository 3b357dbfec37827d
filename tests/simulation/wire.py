"""What Envoy sends: the bytes of a Check, and what either access log tells of a request that is over."""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from keytoll.envoy.messages.access_log_pb2 import HttpAccessLogEntry, StreamAccessLogsMessage
from keytoll.envoy.messages.check_pb2 import CheckRequest, CheckResponse
from simulation.model import Asked, Outcome
from simulation.scenery import OBEYED

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_ANSWERS = ("n", "best_of")


def check_request(secret: str, model: str, asked: Asked, request_id: str) -> bytes:
    """Return the bytes of a full Check."""
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.path = "POST", f"/v1/{asked.endpoint}?trace=1"
    http.headers.update(
        {"authorization": f"Bearer {secret}", "content-type": "application/json", "x-request-id": request_id}
    )
    if asked.body_bytes is not None:
        http.headers["content-length"] = str(asked.body_bytes)
    facts: dict[str, Any] = {"model": model}
    obeyed = OBEYED.get(asked.endpoint, ())
    facts |= dict.fromkeys(set(_LIMITS) - set(obeyed), 1.0)
    facts |= dict(zip(obeyed, map(float, asked.limits), strict=False))
    facts |= dict(zip(_ANSWERS, map(float, asked.answers), strict=False))
    message.attributes.context_extensions["kind"] = "full"
    message.attributes.metadata_context.filter_metadata["kt.req"].update(facts)
    return message.SerializeToString()


def check_answer(answer: bytes) -> tuple[str, dict[str, Any]]:
    """Return how a Check was answered, in the model's words, and the metadata of an admission."""
    response = CheckResponse.FromString(answer)
    if response.status.code == 0:
        return "allowed", MessageToDict(response.dynamic_metadata)
    denied = response.denied_response
    error = json.loads(denied.body)["error"]
    words = {
        (429, "insufficient_quota"): "spent",
        (429, "rate_limit_exceeded"): "held",
        (503, "service_unavailable"): "unavailable",
        (401, "invalid_api_key"): "expired" if " expired at " in error["message"] else "unknown",
    }
    return words[denied.status.code, error["code"]], {}


def journal_line(metadata: Mapping[str, Any], outcome: Outcome, usage: Mapping[str, int] | None) -> bytes:
    """Return the line of the journal for a request that is over."""
    record = {
        "v": 2,
        "type": "DownstreamEnd",
        "start": "1789999999.500000",
        "ms": 250,
        "status": outcome.status,
        "attempts": outcome.attempts,
        "received": outcome.request_bytes,
        "sent": outcome.answer_bytes,
        "lua": _script(outcome),
        "decision_id": metadata["decision_id"],
        "entry": metadata["entry"],
        "usage": None if usage is None else dict(usage),
    }
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def als_entry(metadata: Mapping[str, Any], outcome: Outcome, usage: Mapping[str, int] | None) -> HttpAccessLogEntry:
    """Return the same for the gRPC access log."""
    entry = HttpAccessLogEntry()
    common = entry.common_properties
    common.access_log_type = 6
    common.upstream_request_attempt_count = outcome.attempts
    common.start_time.FromMicroseconds(1_789_999_999_500_000)
    common.metadata.filter_metadata["envoy.filters.http.ext_authz"].update(dict(metadata))
    if usage is not None:
        common.metadata.filter_metadata["kt.usage"].update(dict(usage))
    if (script := _script(outcome)) is not None:
        common.metadata.filter_metadata["kt.lua"].update(script)
    entry.request.request_body_bytes = outcome.request_bytes
    entry.response.response_code.value = outcome.status
    entry.response.response_body_bytes = outcome.answer_bytes
    return entry


def als_message(entries: list[HttpAccessLogEntry]) -> bytes:
    """Return the bytes of one message of the gRPC access log."""
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.extend(entries)
    return message.SerializeToString()


def reported(outcome: Outcome, *, anthropic: bool) -> dict[str, int] | None:
    """Return the usage as a backend tells it: OpenAI counts what its cache held within the prompt, Anthropic beside it."""
    if outcome.tokens is None:
        return None
    tokens = {name: outcome.tokens.get(name, 0) for name in _CLASSES}
    if anthropic:
        told = {
            "input_tokens": tokens["input"],
            "cache_read_input_tokens": tokens["cached_input"],
            "cache_creation_input_tokens": tokens["cache_write"],
        }
        return told | ({"output_tokens": tokens["output"]} if outcome.output_told else {})
    prompt = tokens["input"] + tokens["cached_input"] + tokens["cache_write"] + tokens["audio_input"]
    told = {"prompt_tokens": prompt, "cached_tokens": tokens["cached_input"]}
    told |= {"cache_creation_input_tokens": tokens["cache_write"], "audio_input_tokens": tokens["audio_input"]}
    if outcome.output_told:
        told |= {"completion_tokens": tokens["output"] + tokens["audio_output"]}
        told |= {"audio_output_tokens": tokens["audio_output"]}
    return told


_CLASSES = ("input", "cached_input", "cache_write", "output", "audio_input", "audio_output")


def _script(outcome: Outcome) -> dict[str, Any] | None:
    return None if outcome.events is None else {"stream": {"events": outcome.events, "bytes": outcome.answer_bytes}}
