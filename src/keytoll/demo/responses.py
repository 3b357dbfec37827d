"""/v1/responses, whole and streamed, in OpenAI's shapes. Nothing is stored."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from keytoll.demo.asked import Fields, Refused, conversation, token_limit
from keytoll.demo.text import Prompt, Reply, reply_to
from keytoll.demo.wire import event_bytes


@dataclass(frozen=True, slots=True)
class Run:
    head: dict[str, Any]
    item_id: str
    prompt: Prompt
    reply: Reply

    def response(self, status: str) -> dict[str, Any]:
        ended = status != "in_progress"
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        output = [self.item(status)] if ended else []
        usage = self.usage() if ended else None
        return self.head | {"status": status, "incomplete_details": reason, "output": output, "usage": usage}

    def item(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [_part(self.reply.text)]
        return {"id": self.item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self.prompt.tokens,
            "input_tokens_details": {"cached_tokens": self.prompt.cached_tokens},
            "output_tokens": self.reply.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt.tokens + self.reply.tokens,
        }

    @property
    def end(self) -> str:
        return "incomplete" if self.reply.cut else "completed"


def run_response(fields: Fields) -> Run:
    prompt = _prompt(fields)
    limit = token_limit(fields, "max_output_tokens")
    return Run(_head(fields, limit), f"msg_{uuid.uuid4().hex}", prompt, reply_to(prompt.said, limit_tokens=limit))


def _prompt(fields: Fields) -> Prompt:
    asked, instructions = fields.get("input"), fields.get("instructions") or ""
    if not isinstance(instructions, str):
        raise Refused(400, "instructions must be a string.", param="instructions")
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    return conversation(messages, param="input", instructions=instructions)


def _head(fields: Fields, limit: int | None) -> dict[str, Any]:
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "error": None,
        "instructions": fields.get("instructions"),
        "max_output_tokens": limit,
        "metadata": fields.get("metadata") or {},
        "model": fields["model"],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
    }


def response_events(run: Run) -> Iterator[bytes]:
    """The stream; its last event carries the usage."""
    for number, (kind, data) in zip(count(), _events(run), strict=False):
        body = {"type": kind, "sequence_number": number} | data
        yield event_bytes(kind, body)


def _events(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    item = {"output_index": 0}
    text = {"item_id": run.item_id, "output_index": 0, "content_index": 0}
    yield "response.created", {"response": run.response("in_progress")}
    yield "response.in_progress", {"response": run.response("in_progress")}
    yield "response.output_item.added", item | {"item": run.item("in_progress")}
    yield "response.content_part.added", text | {"part": _part("")}
    for piece in run.reply.pieces:
        yield "response.output_text.delta", text | {"delta": piece, "logprobs": []}
    yield "response.output_text.done", text | {"text": run.reply.text, "logprobs": []}
    yield "response.content_part.done", text | {"part": _part(run.reply.text)}
    yield "response.output_item.done", item | {"item": run.item(run.end)}
    yield f"response.{run.end}", {"response": run.response(run.end)}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
