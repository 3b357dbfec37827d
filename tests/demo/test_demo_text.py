"""The demo model's tokens and answers can be followed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.demo.text import count_tokens, reply_to


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        (" \n\t ", 0),
        ("Hello, world!", 4),
        ("one two  three", 3),
        ("Wait... what?!", 4),
        ("España 生产 🚀", 3),
        ("snake_case 3.14", 4),
    ],
)
def test_a_token_is_a_run_of_letters_or_of_other_characters(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


@given(st.text())
def test_an_answer_has_as_many_tokens_as_its_text_counts(said: str) -> None:
    reply = reply_to(said, limit_tokens=None)
    assert reply.tokens == count_tokens(reply.text)
    assert reply == reply_to(said, limit_tokens=None)


@given(st.text(), st.integers(1, 80))
def test_a_limit_cuts_the_answer_and_says_so(said: str, limit: int) -> None:
    whole, limited = reply_to(said, limit_tokens=None), reply_to(said, limit_tokens=limit)
    assert limited.tokens == min(limit, whole.tokens)
    assert whole.text.startswith(limited.text)
    assert limited.cut == (whole.tokens > limit)


def test_a_count_is_as_long_as_it_was_asked_for() -> None:
    reply = reply_to("Count to 500.", limit_tokens=None)
    assert reply.tokens == 500
    assert reply.text.endswith("499 500")


def test_a_long_prompt_is_echoed_only_at_its_beginning() -> None:
    assert reply_to("word " * 1_000_000, limit_tokens=None).tokens < 60
