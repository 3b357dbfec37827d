"""The demo backend: a small OpenAI-compatible server whose usage is computed from the text (see `text.py`).

    python -m keytoll.demo.backend --port 8082

It knows only its own model names and wants its own credential, so whatever it answers proves that the gateway put both
into the request.
"""

import argparse
import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from keytoll.demo.asked import Fields, Refused, flag
from keytoll.demo.audio import Transcript, speech
from keytoll.demo.completions import Run, completion, completion_events, run_chat, run_text
from keytoll.demo.embeddings import embeddings
from keytoll.demo.forms import Form, read_form
from keytoll.demo.images import image_events, images, run_images
from keytoll.demo.judging import moderation, rerank
from keytoll.demo.responses import response_events, run_response
from keytoll.demo.wire import JsonAnswer

CREDENTIAL = "demo-backend-secret"
TEXT_MODEL = "demo-chat"
EMBEDDING_MODEL = "demo-embedding"
RERANK_MODEL = "demo-rerank"
MODERATION_MODEL = "demo-moderation"
IMAGE_MODEL = "demo-image"
SPEECH_MODEL = "demo-speech"
TRANSCRIPTION_MODEL = "demo-transcription"
MODELS = (
    *(TEXT_MODEL, EMBEDDING_MODEL, RERANK_MODEL, MODERATION_MODEL),
    *(IMAGE_MODEL, SPEECH_MODEL, TRANSCRIPTION_MODEL),
)

Stream = Callable[[Iterator[bytes]], Response]

Answer = Callable[[Fields], Response]


def create_backend(*, token_delay_s: float) -> Starlette:
    """`token_delay_s` passes between two events of a stream."""
    stream = partial(_stream, token_delay_s=token_delay_s)
    routes = [
        _post("/v1/chat/completions", TEXT_MODEL, partial(_complete, run_chat, stream)),
        _post("/v1/completions", TEXT_MODEL, partial(_complete, run_text, stream)),
        _post("/v1/responses", TEXT_MODEL, partial(_respond, stream)),
        _post("/v1/embeddings", EMBEDDING_MODEL, lambda fields: JsonAnswer(embeddings(fields))),
        _post("/v1/rerank", RERANK_MODEL, lambda fields: JsonAnswer(rerank(fields))),
        _post("/v1/moderations", MODERATION_MODEL, lambda fields: JsonAnswer(moderation(fields))),
        _post("/v1/images/generations", IMAGE_MODEL, partial(_draw, stream)),
        _post("/v1/audio/speech", SPEECH_MODEL, _speak),
        Route("/v1/audio/transcriptions", partial(_transcribe, stream), methods=["POST"]),
        Route("/v1/models", _list_models),
        Route("/v1/models/{name}", _show_model),
        Route("/healthz", _health),
    ]
    handlers: dict[Any, Any] = {Refused: _refusal, HTTPException: _http_error}
    return Starlette(routes=routes, exception_handlers=handlers)


def _post(path: str, model: str, answer: Answer) -> Route:
    async def endpoint(request: Request) -> Response:
        _authenticate(request)
        return answer(await _read(request, model))

    return Route(path, endpoint, methods=["POST"])


def _complete(start: Callable[[Fields], Run], stream: Stream, fields: Fields) -> Response:
    run = start(fields)
    return stream(completion_events(run)) if flag(fields, "stream") else JsonAnswer(completion(run))


def _respond(stream: Stream, fields: Fields) -> Response:
    run = run_response(fields)
    return stream(response_events(run)) if flag(fields, "stream") else JsonAnswer(run.response(run.end))


def _draw(stream: Stream, fields: Fields) -> Response:
    run = run_images(fields)
    return stream(image_events(run)) if flag(fields, "stream") else JsonAnswer(images(run))


def _speak(fields: Fields) -> Response:
    sound, media_type = speech(fields)
    return Response(sound, media_type=media_type)


async def _transcribe(stream: Stream, request: Request) -> Response:
    _authenticate(request)
    form: Form = read_form(request.headers.get("content-type", ""), await request.body())
    if form.get("model") != TRANSCRIPTION_MODEL:
        raise _no_model(form.get("model"))
    transcript = Transcript(form)
    if transcript.streamed:
        return stream(transcript.events())
    return JsonAnswer(transcript.whole()) if transcript.kind == "json" else PlainTextResponse(transcript.plain())


def _stream(events: Iterator[bytes], *, token_delay_s: float) -> Response:
    return StreamingResponse(_paced(events, token_delay_s), media_type="text/event-stream")


async def _paced(events: Iterator[bytes], token_delay_s: float) -> AsyncIterator[bytes]:
    for event in events:
        yield event
        await asyncio.sleep(token_delay_s)


def _authenticate(request: Request) -> None:
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    right = secrets.compare_digest(credential.encode(), CREDENTIAL.encode())
    if scheme.lower() != "bearer" or not right:
        raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")


async def _read(request: Request, model: str) -> Fields:
    try:
        fields = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is not JSON.") from error
    if not isinstance(fields, dict):
        raise Refused(400, "The body must be a JSON object.")
    if fields.get("model") != model:
        raise _no_model(fields.get("model"))
    return fields


def _no_model(name: object) -> Refused:
    if not isinstance(name, str):
        return Refused(400, "You must provide a model.", param="model")
    message = f"The model `{name}` does not exist here, or is not for this endpoint."
    return Refused(404, message, param="model", code="model_not_found")


async def _list_models(request: Request) -> Response:
    _authenticate(request)
    return JsonAnswer({"object": "list", "data": [_model(name) for name in MODELS]})


async def _show_model(request: Request) -> Response:
    _authenticate(request)
    name = request.path_params["name"]
    if name not in MODELS:
        raise _no_model(name)
    return JsonAnswer(_model(name))


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1767225600, "owned_by": "keytoll-demo"}


async def _health(_request: Request) -> Response:
    return JsonAnswer({"status": "ok"})


async def _refusal(_request: Request, refused: Refused) -> Response:
    return JsonAnswer(refused.body, status_code=refused.status)


async def _http_error(request: Request, error: HTTPException) -> Response:
    refused = Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}.")
    return JsonAnswer(refused.body, status_code=refused.status, headers=error.headers)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    backend = create_backend(token_delay_s=options.token_delay_ms / 1000)
    # Streams still running at a stop are cut after a second: they may be hours long.
    uvicorn.run(backend, host="127.0.0.1", port=options.port, timeout_graceful_shutdown=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m keytoll.demo.backend", description="A demo model backend.")
    parser.add_argument("--port", type=int, default=8082, help="on 127.0.0.1 (default: %(default)s)")
    parser.add_argument(
        "--token-delay-ms", type=float, default=5.0, help="between two events of a stream (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    main()
