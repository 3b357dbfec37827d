"""The endpoints that are served: one exact table from path and method. What is not in it is refused.

What is priced is what is served, so a path that is only nearly right (another prefix, a trailing slash, other letters)
must not reach a backend that might take it for the real one.
"""

from dataclasses import dataclass
from enum import StrEnum


class Body(StrEnum):
    """What a request's body is: JSON, a multipart form, or nothing, for reads."""

    JSON = "json"
    FORM = "form"
    NONE = "none"


class Inputs(StrEnum):
    """How many input tokens a body can hold, at one token a byte at most (core/worst_case.py).

    ONE context, whose length caps them; MANY inputs, each a context of its own; PAIRS, of which one part is read again
    with each of the others; or UNBOUNDED by what is known of the body: a form, or an array of prompts that each get
    an answer.
    """

    ONE = "one"
    MANY = "many"
    PAIRS = "pairs"
    UNBOUNDED = "unbounded"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    `outputs`: it generates tokens. `text_in`, `text_out`: bytes that went in or came out tell roughly how many tokens
    they were, where a backend doesn't. `streams`: it knows `stream` at all. `stream_options`: a stream tells its usage
    only if `stream_options.include_usage` asks for it. `stores`: the backend keeps the answer unless `store` is false.
    `limits` are the names by which it takes a limit on its output; backends ignore any other, so none of those may make a
    hold smaller. A `read` is answered by Keytoll itself: it holds nothing and leaves no row.
    """

    name: str
    method: str = "POST"
    body: Body = Body.JSON
    inputs: Inputs = Inputs.ONE
    outputs: bool = True
    limits: tuple[str, ...] = ()
    text_in: bool = True
    text_out: bool = True
    streams: bool = False
    stream_options: bool = False
    stores: bool = False
    read: bool = False


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(
        "chat/completions",
        limits=("max_tokens", "max_completion_tokens"),
        streams=True,
        stream_options=True,
    ),
    "/v1/completions": Endpoint(
        "completions", inputs=Inputs.UNBOUNDED, limits=("max_tokens",), streams=True, stream_options=True
    ),
    "/v1/responses": Endpoint("responses", limits=("max_output_tokens",), streams=True, stores=True),
    "/v1/embeddings": Endpoint("embeddings", inputs=Inputs.MANY, outputs=False, text_out=False),
    "/v1/rerank": Endpoint("rerank", inputs=Inputs.PAIRS, outputs=False, text_out=False),
    "/v1/moderations": Endpoint("moderations", inputs=Inputs.MANY, outputs=False, text_out=False),
    "/v1/images/generations": Endpoint("images/generations", text_out=False, streams=True),
    "/v1/audio/speech": Endpoint("audio/speech", text_out=False),
    "/v1/audio/transcriptions": Endpoint(
        "audio/transcriptions", body=Body.FORM, inputs=Inputs.UNBOUNDED, text_in=False, streams=True
    ),
    "/v1/models": Endpoint("models", method="GET", body=Body.NONE, read=True),
    "/v1/key": Endpoint("key", method="GET", body=Body.NONE, read=True),
}

MODEL_PATH = "/v1/models/"
"""Below it each model on offer has a path of its own, read as `/v1/models` is."""

BY_NAME: dict[str, Endpoint] = {endpoint.name: endpoint for endpoint in ENDPOINTS.values()}


def endpoint_at(path: str) -> Endpoint | None:
    """Return the endpoint of a path without its query, None if it is not served."""
    if (endpoint := ENDPOINTS.get(path)) is not None:
        return endpoint
    return ENDPOINTS["/v1/models"] if path.startswith(MODEL_PATH) and len(path) > len(MODEL_PATH) else None
