"""Reading the fields of a request, and refusing them in OpenAI's error shape."""

from collections.abc import Iterable, Mapping
from typing import Any

from keytoll.demo.text import Prompt, count_tokens

Fields = Mapping[str, Any]


class Refused(Exception):
    """The request is answered with `status` and an error body. `param` names the field at fault."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def whole_number(fields: Fields, name: str, *, lowest: int, highest: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise Refused(400, f"{name} must be a whole number from {lowest} to {highest}.", param=name)
    return value


def token_limit(fields: Fields, *names: str) -> int | None:
    """The smallest of the limits given, None without any."""
    limits = [whole_number(fields, name, lowest=1, highest=2**31) for name in names]
    return min((limit for limit in limits if limit is not None), default=None)


def flag(fields: Fields, name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(400, f"{name} must be true or false.", param=name)
    return bool(value)


def stream_options(fields: Fields) -> Fields:
    options = fields.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise Refused(400, "stream_options must be an object.", param="stream_options")
    if not flag(fields, "stream"):
        raise Refused(400, "stream_options is only allowed when stream is true.", param="stream_options")
    return options


def conversation(messages: object, *, param: str, instructions: str = "") -> Prompt:
    """The prompt of a list of messages: every text counts, names and roles don't. The last user's text is answered."""
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise Refused(400, f"{param} must be a list of one or more messages.", param=param)
    texts = [(message.get("role"), text_of(message.get("content"), param=param)) for message in messages]
    cached_tokens = count_tokens(instructions) + _count_all(text for role, text in texts if role in _INSTRUCTING)
    tokens = cached_tokens + _count_all(text for role, text in texts if role not in _INSTRUCTING)
    said = next((text for role, text in reversed(texts) if role == "user"), texts[-1][1])
    return Prompt(said, tokens, cached_tokens)


_INSTRUCTING = ("system", "developer")


def text_of(content: object, *, param: str) -> str:
    """The text of a content: a string, or parts, of which those without text (images, audio) count nothing."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return " ".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise Refused(400, f"{param}: content must be a string or a list of parts.", param=param)


def _count_all(texts: Iterable[str]) -> int:
    return sum(count_tokens(text) for text in texts)


def prompts(value: object, *, param: str) -> list[Prompt]:
    """One or several prompts: a string, strings, the numbers of tokens, or several lists of such numbers."""
    if isinstance(value, str):
        return [_text_prompt(value)]
    if isinstance(value, list) and value:
        if _are_numbers(value):
            return [_token_prompt(value)]
        if all(isinstance(item, str) for item in value):
            return [_text_prompt(item) for item in value]
        if all(isinstance(item, list) and item and _are_numbers(item) for item in value):
            return [_token_prompt(item) for item in value]
    raise Refused(400, f"{param} must be a string, a list of strings, or one or several lists of tokens.", param=param)


def _text_prompt(text: str) -> Prompt:
    return Prompt(text, count_tokens(text))


def _token_prompt(numbers: list[int]) -> Prompt:
    return Prompt(" ".join(map(str, numbers)), len(numbers))


def _are_numbers(items: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)
