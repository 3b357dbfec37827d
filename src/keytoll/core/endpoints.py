"""The endpoints that are served: one exact table from path and method. What is not in it is refused.

What is priced is what is served, so a path that is only nearly right (another prefix, a trailing slash, other letters)
must not reach a backend that might take it for the real one.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint. All take JSON by POST.

    `stream_options`: a stream tells its usage only if `stream_options.include_usage` asks for it.
    `streams`: the endpoint knows `stream` at all.
    `stores`: the backend keeps the answer unless `store` is false.
    """

    name: str
    streams: bool = False
    stream_options: bool = False
    stores: bool = False


METHOD = "POST"
"""The method of every endpoint."""

ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint("chat/completions", streams=True, stream_options=True),
    "/v1/completions": Endpoint("completions", streams=True, stream_options=True),
    "/v1/responses": Endpoint("responses", streams=True, stores=True),
    "/v1/embeddings": Endpoint("embeddings"),
}
