"""/v1/chat/completions and /v1/completions, whole and streamed, in OpenAI's shapes."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keytoll.demo.asked import Fields, conversation, flag, prompts, stream_options, token_limit, whole_number
from keytoll.demo.text import Prompt, Reply, reply_to
from keytoll.demo.wire import json_bytes


@dataclass(frozen=True, slots=True)
class Run:
    """One generation: each choice answers a prompt. `head` begins every object sent for it."""

    chat: bool
    head: dict[str, Any]
    prompts: tuple[Prompt, ...]
    choices: tuple[Reply, ...]
    include_usage: bool
    running_usage: bool

    def usage(self, completion_tokens: int) -> dict[str, Any]:
        prompt_tokens = sum(prompt.tokens for prompt in self.prompts)
        cached_tokens = sum(prompt.cached_tokens for prompt in self.prompts)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }


def run_chat(fields: Fields) -> Run:
    prompt = conversation(fields.get("messages"), param="messages")
    return _run(fields, (prompt,), chat=True)


def run_text(fields: Fields) -> Run:
    return _run(fields, tuple(prompts(fields.get("prompt"), param="prompt")), chat=False)


def _run(fields: Fields, asked: tuple[Prompt, ...], *, chat: bool) -> Run:
    options = stream_options(fields)
    limit = token_limit(fields, "max_completion_tokens", "max_tokens") if chat else token_limit(fields, "max_tokens")
    repeats = whole_number(fields, "n", lowest=1, highest=128) or 1
    replies = [reply_to(prompt.said, limit_tokens=limit) for prompt in asked]
    include_usage = flag(options, "include_usage")
    return Run(
        chat=chat,
        head=_head(fields, chat=chat),
        prompts=asked,
        choices=tuple(reply for reply in replies for _ in range(repeats)),
        include_usage=include_usage,
        running_usage=include_usage and flag(options, "continuous_usage_stats"),
    )


def _head(fields: Fields, *, chat: bool) -> dict[str, Any]:
    return {
        "id": ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex,
        "object": _object(chat=chat, streamed=flag(fields, "stream")),
        "created": int(time.time()),
        "model": fields["model"],
        "system_fingerprint": "fp_demo",
    }


def _object(*, chat: bool, streamed: bool) -> str:
    if not chat:
        return "text_completion"
    return "chat.completion.chunk" if streamed else "chat.completion"


def completion(run: Run) -> dict[str, Any]:
    choices = [_whole_choice(run, index, reply) for index, reply in enumerate(run.choices)]
    return run.head | {"choices": choices, "usage": run.usage(sum(reply.tokens for reply in run.choices))}


def _whole_choice(run: Run, index: int, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
    content = {"message": message} if run.chat else {"text": reply.text}
    return {"index": index, **content, "logprobs": None, "finish_reason": _finish(reply)}


def _finish(reply: Reply) -> str:
    return "length" if reply.cut else "stop"


def completion_events(run: Run) -> Iterator[bytes]:
    """The stream, an event a token; the last of them `[DONE]`."""
    sent_tokens = 0
    for choice, tokens in _choice_chunks(run):
        sent_tokens += tokens
        yield _event(run.head | {"choices": [choice]} | _chunk_usage(run, sent_tokens))
    if run.include_usage:
        yield _event(run.head | {"choices": [], "usage": run.usage(sent_tokens)})
    yield b"data: [DONE]\n\n"


def _choice_chunks(run: Run) -> Iterator[tuple[dict[str, Any], int]]:
    """The chunks of every choice in turn, each with the tokens that it carries."""
    for index, reply in enumerate(run.choices):
        if run.chat:
            yield _chunk(index, {"delta": {"role": "assistant", "content": "", "refusal": None}}), 0
        for piece in reply.pieces:
            yield _chunk(index, {"delta": {"content": piece}} if run.chat else {"text": piece}), 1
        yield _chunk(index, {"delta": {}} if run.chat else {"text": ""}, finish=_finish(reply)), 0


def _chunk(index: int, content: dict[str, Any], *, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": None, "finish_reason": finish}


def _chunk_usage(run: Run, sent_tokens: int) -> dict[str, Any]:
    if run.running_usage:
        return {"usage": run.usage(sent_tokens)}
    return {"usage": None} if run.include_usage else {}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json_bytes(data) + b"\n\n"
