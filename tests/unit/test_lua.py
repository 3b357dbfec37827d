"""What request.lua does to bodies and streams, run in LuaJIT as Envoy runs it. The real Envoy runs it in tests/e2e."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa.luajit21 import LuaRuntime

import keytoll.envoy

SCRIPT = Path(keytoll.envoy.__file__).with_name("request.lua").read_bytes()


def runtime() -> Any:
    lua = LuaRuntime(encoding=None)
    lua.execute(SCRIPT)
    return lua


LUA = runtime()


def edit(body: str, **orders: object) -> tuple[str | None, Any]:
    """Return the spliced body and the model's text in it, or None and the name at fault."""
    table = LUA.table_from({k.encode(): v.encode() if isinstance(v, str) else v for k, v in orders.items()})
    result = LUA.globals()[b"edit"](body.encode(), table)
    text, more = result if isinstance(result, tuple) else (result, None)
    if text is None:
        return None, more.decode() if more is not None else None
    return text.decode(), text[more[1] - 1 : more[2]].decode() if more is not None else None


def test_a_body_without_orders_keeps_every_byte() -> None:
    body = ' {"model" : "m",\t"x":[1.0, 1e2, 12345678901234567890, "\\u00e9"], "messages":[{"model":1,"model":2}]}\r\n'
    assert edit(body) == (body, '"m"')


@pytest.mark.parametrize(
    ("body", "orders", "after"),
    [
        ('{"model":"m"}', {"upstream_model": "org/up"}, '{"model":"org/up"}'),
        (
            '{"model":"m","stream":true}',
            {"include_usage": True},
            '{"stream_options":{"include_usage":true},"model":"m","stream":true}',
        ),
        (
            '{"model":"m","stream_options":null}',
            {"include_usage": True},
            '{"model":"m","stream_options":{"include_usage":true}}',
        ),
        (
            '{"model":"m","stream_options":{}}',
            {"include_usage": True, "running_usage": True},
            '{"model":"m","stream_options":{"continuous_usage_stats":true,"include_usage":true}}',
        ),
        (
            '{"stream_options":{"include_usage":false,"other":{"a":1}},"model":"m"}',
            {"include_usage": True, "upstream_model": "n"},
            '{"stream_options":{"include_usage":true,"other":{"a":1}},"model":"n"}',
        ),
        ('{"model":"m"}', {"store_false": True}, '{"store":false,"model":"m"}'),
        ('{"store":null,"model":"m"}', {"store_false": True}, '{"store":false,"model":"m"}'),
        ("{ }", {"store_false": True}, '{"store":false }'),
    ],
)
def test_orders_are_spliced_in_and_all_else_keeps_its_bytes(body: str, orders: dict[str, Any], after: str) -> None:
    assert edit(body, **orders)[0] == after


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('{"model":"a","model":"b"}', "model"),
        ('{"model":"a","Model":"b"}', "model"),
        ('{"model":"a","STREAM":true}', "stream"),
        ('{"mod\\u0065l":"b"}', ""),
        ('{"\u017ftream":true}', ""),  # ſ folds to s in some parsers
        ('{"stream":{}}', "stream"),
        ('{"n":[2]}', "n"),
        ('{"model":"a","stream_options":[1]}', "stream_options"),
        ('{"model":"a","stream_options":{"include_usage":true,"include_usage":false}}', "stream_options"),
        ("[1]", None),
        ('"text"', None),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused_by_name(body: str, fault: str | None) -> None:
    assert edit(body, include_usage=True) == (None, fault)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='\\"'), min_size=1, max_size=6)
READ = {"model", "stream", "stream_options", "store", "n", "best_of", "background", "conversation"}
others = names.filter(lambda name: name.lower() not in READ)


@given(
    st.dictionaries(others, values, max_size=4),
    st.text(max_size=6),
    st.none() | st.dictionaries(others, values, max_size=2),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_splicing_changes_what_was_ordered_and_nothing_else(
    rest: dict[str, Any], model: str, options: dict[str, Any] | None, indent: int | None, ascii_only: bool
) -> None:
    asked = rest | {"model": model, "stream": True, "stream_options": options}
    body = json.dumps(asked, indent=indent, ensure_ascii=ascii_only)
    after, span = edit(body, include_usage=True, running_usage=True, store_false=True, upstream_model="up")
    assert after is not None
    assert json.loads(after) == asked | {
        "model": "up",
        "store": False,
        "stream_options": (options or {}) | {"include_usage": True, "continuous_usage_stats": True},
    }
    assert span == '"up"'


USAGE = 'data: {"id":"x","choices":[],"usage":{"prompt_tokens":3}}'
EVENTS = [
    'data: {"choices":[{"delta":{"content":"a \\"choices\\":[] \\"usage\\":{} b"}}],"usage":null}',
    'data: {"choices":[],"prompt_filter_results":[]}',
    ": comment",
    "event: x\ndata: {}",
    "data: [DONE]",
]


@given(st.lists(st.sampled_from([*EVENTS, USAGE]), max_size=6), st.sampled_from(["\n", "\r\n"]), st.data())
def test_only_the_usage_chunk_is_hidden_however_the_stream_is_cut(
    events: list[str], line: str, data: st.DataObject
) -> None:
    stream = "".join(event.replace("\n", line) + line * 2 for event in events).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    cleaned, held, counted, before = b"", b"", 0, b"\n"
    for piece in pieces:
        more, before = LUA.globals()[b"count_events"](before, piece)
        out, held = LUA.globals()[b"without_usage_chunk"](held + piece)
        counted, cleaned = counted + more, cleaned + out
    wanted = "".join(event.replace("\n", line) + line * 2 for event in events if event != USAGE).encode()
    assert cleaned + held == wanted
    assert counted == sum("data:" in event for event in events)


def test_an_event_that_is_too_long_to_hold_is_let_go() -> None:
    event = b"data: " + b"x" * 1_048_577
    assert LUA.globals()[b"without_usage_chunk"](event) == (event, b"")
