"""/v1/rerank and /v1/moderations: judged by the words of the texts alone."""

import uuid
from typing import Any

from keytoll.demo.asked import Fields, Refused, flag, prompts, whole_number
from keytoll.demo.text import count_tokens, words

MAXIMUM_DOCUMENTS = 1000
WORDS_OF = {
    "harassment": {"idiot"},
    "harassment/threatening": set[str](),
    "hate": {"hate"},
    "hate/threatening": set[str](),
    "illicit": {"steal"},
    "illicit/violent": set[str](),
    "self-harm": set[str](),
    "self-harm/instructions": set[str](),
    "self-harm/intent": set[str](),
    "sexual": set[str](),
    "sexual/minors": set[str](),
    "violence": {"kill"},
    "violence/graphic": set[str](),
}


def rerank(fields: Fields) -> dict[str, Any]:
    """Documents by the share of the query's words that they hold. The query is read again with each, and counted so."""
    query, documents = fields.get("query"), _documents(fields.get("documents"))
    if not isinstance(query, str) or not query:
        raise Refused(400, "query must be a string.", param="query")
    best = whole_number(fields, "top_n", lowest=1, highest=MAXIMUM_DOCUMENTS) or len(documents)
    scored = sorted(enumerate(documents), key=lambda item: -_score(query, item[1]))
    tokens = sum(count_tokens(query) + count_tokens(document) for document in documents)
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "model": fields["model"],
        "usage": {"total_tokens": tokens},
        "results": [_result(fields, query, index, document) for index, document in scored[:best]],
    }


def _documents(value: object) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAXIMUM_DOCUMENTS:
        raise Refused(400, f"documents must be a list of 1 to {MAXIMUM_DOCUMENTS} texts.", param="documents")
    return [_text_of(item) for item in value]


def _text_of(document: object) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise Refused(400, "documents must be texts, or objects with a text.", param="documents")
    return text


def _score(query: str, document: str) -> float:
    asked = words(query)
    return len(asked & words(document)) / max(len(asked), 1)


def _result(fields: Fields, query: str, index: int, document: str) -> dict[str, Any]:
    shown = {"document": {"text": document}} if flag(fields, "return_documents") else {}
    return {"index": index, "relevance_score": _score(query, document)} | shown


def moderation(fields: Fields) -> dict[str, Any]:
    """As OpenAI's, it tells no usage."""
    results = [_judged(words(prompt.said)) for prompt in prompts(fields.get("input"), param="input")]
    return {"id": f"modr-{uuid.uuid4().hex}", "model": fields["model"], "results": results}


def _judged(said: set[str]) -> dict[str, Any]:
    categories = {name: bool(said & bad) for name, bad in WORDS_OF.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": {name: float(found) for name, found in categories.items()},
        "category_applied_input_types": {name: ["text"] for name in categories},
    }
