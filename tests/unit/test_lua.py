"""What request.lua does to bodies and streams, and how form.lua reads forms, run in LuaJIT as Envoy runs them. The real
Envoy runs them in tests/e2e.
"""

import email.policy
import json
import time
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa.luajit21 import LuaRuntime

import keytoll.envoy


def runtime(script: str, more: bytes = b"") -> Any:
    lua = LuaRuntime(encoding=None)
    lua.execute(Path(keytoll.envoy.__file__).with_name(script).read_bytes() + more)
    return lua


LUA, FORM_LUA = runtime("request.lua", more=b"\nread_at_the_top = TOP"), runtime("form.lua")


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
        ('{"prompt":["a"],"model":"m"}', {"store_false": True}, '{"store":false,"prompt":["a"],"model":"m"}'),
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
        ('{"prompt":"x","prompt":{"id":"pmpt_1"}}', "prompt"),
        ('{"prompt":{"Id":"pmpt_1"}}', "prompt"),
        ('{"conversation":{"Id":"conv_1"}}', "conversation"),
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
READ = {name.decode() for name in LUA.globals()[b"read_at_the_top"]}
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


@pytest.mark.parametrize(
    ("answer", "report"),
    [
        (
            ' {"id":"x","usage" : {"prompt_tokens":3, "d":{"a":[1]}} }\n',
            (b'{"prompt_tokens":3, "d":{"a":[1]}}', b"usage"),
        ),
        ('{"choices":[{"usage":{"a":1},"text":"\\"usage\\":{}"}],"usage":{"b":2}}', (b'{"b":2}', b"usage")),
        ('{"usage":{"a":1},"备注":"x","\\u0061":1,"Usage":{"c":3},"usage":{"b":2}}', (b'{"b":2}', b"usage")),
        ('{"meta":{"tokens":{"input_tokens":1}},"usage":null}', (b'{"tokens":{"input_tokens":1}}', b"meta")),
        ('{"meta":"v1","usage":{"b":2}}', (b'{"b":2}', b"usage")),
        ('{"usage":{"a":"' + "x" * 5000 + '"}}', None),
        ('{"usage":7}', None),
        ('{"choices":[{"usage":{"a":1}}]}', None),
        ('{"tools":[{"usage":{"usage":{}}},"usage"],"x":"usage","usage":{"b":2},"user":"u"}', (b'{"b":2}', b"usage")),
        ('{"u\\"usage":{"a":1},"usage":{"b":2}}', (b'{"b":2}', b"usage")),
        ('[{"usage":{"a":1}}]', None),
        ('{"usage":{"a":1}', None),
        ('words, then {"usage":{"a":1}}', None),
        ("", None),
    ],
)
def test_the_usage_of_an_answer_is_the_text_of_its_top_level_member(answer: str, report: object) -> None:
    assert LUA.globals()[b"usage_in"](answer.encode()) == report


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("", True),
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("text/plain;charset=utf-8", True),
        ("text/json", True),
        ("application/jsonl", False),
        ("application/octet-stream", False),
        ("audio/mpeg", False),
        ("text/html", False),
    ],
)
def test_an_answer_is_kept_back_for_its_usage_only_where_it_can_be_json(content_type: str, expected: bool) -> None:
    assert LUA.globals()[b"is_json"](content_type.encode()) is expected


@given(st.dictionaries(st.text(max_size=5), values, max_size=4), st.none() | st.dictionaries(names, values, max_size=3))
def test_the_usage_of_any_answer_is_found_as_it_was_written(rest: dict[str, Any], usage: dict[str, Any] | None) -> None:
    answer = json.dumps(rest | {"usage": usage}, ensure_ascii=False)
    found = LUA.globals()[b"usage_in"](answer.encode())
    if usage is None:
        assert found is None or found[1] == b"meta"
    else:
        assert json.loads(found[0]) == usage


def test_an_answer_whose_nesting_repeats_the_name_takes_no_longer() -> None:
    """Some backends repeat the caller's tools: each level was looked through to its end, this took minutes."""
    depth = 20_000
    answer = '{"tools":' + '{"usage":' * depth + "1" + "}" * depth + ',"usage":{"b":2}}'
    started_s = time.perf_counter()
    assert LUA.globals()[b"usage_in"](answer.encode()) == (b'{"b":2}', b"usage")
    assert time.perf_counter() - started_s < 1


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


def test_a_prompt_that_names_a_model_is_text_and_nothing_else() -> None:
    body = '{"prompt":"{\\"model\\":\\"x\\"}","model":"m"}'
    assert edit(body, upstream_model="up")[0] == body.replace('"m"', '"up"')


# Forms ---------------------------------------------------------------------------------------------------------------

FILE = (b'form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav', b"RIFF\x00\xff\r\n\r\n--\r\n")
MODEL = (b'form-data; name="model"', b"whisper-1")


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"b0und") -> bytes:
    """Return a form of parts, each a content-disposition (and what follows it in the head) and a content."""
    written = [b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (boundary, head, body) for head, body in parts]
    return b"".join(written) + b"--%b--\r\n" % boundary


def read_form(body: bytes, boundary: bytes = b"b0und") -> dict[str, Any] | None:
    """Return what form.lua tells of a form, None if it refuses it."""
    found = FORM_LUA.globals()[b"read_form"](body, boundary)
    if found is None:
        return None
    told = {name.decode(): value for name, value in found.items()}
    if "model_at" in told:
        first, last = map(int, told.pop("model_at").split())
        assert body[first - 1 : last] == told["model"]
    return told


def test_model_and_stream_are_read_from_a_form() -> None:
    assert read_form(form(FILE, MODEL)) == {"model": b"whisper-1"}
    assert read_form(form(MODEL, FILE, (b'form-data; name="stream"', b"true"))) == {
        "model": b"whisper-1",
        "stream": True,
    }
    assert read_form(form(MODEL, (b'form-data; name="stream"', b"false"))) == {"model": b"whisper-1", "stream": False}
    assert read_form(form(FILE)) == {"model": b""}


@pytest.mark.parametrize("value", [b"True", b"1", b"on", b"", b"true ", b"yes"])
def test_a_stream_that_is_neither_true_nor_false_is_told_as_neither(value: bytes) -> None:
    """Form parsers take many words for true; Check refuses what is no boolean."""
    assert read_form(form(MODEL, (b'form-data; name="stream"', value))) == {"model": b"whisper-1", "stream": b""}


@pytest.mark.parametrize(
    "head",
    [
        b"form-data; name=model",  # .NET
        b'form-data; name="model"\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 9',  # Spring, OkHttp
        b'form-data; name="model"\r\nContent-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: 8bit',
    ],
)
def test_the_ways_in_which_real_clients_write_a_field_are_read(head: bytes) -> None:
    file = b"form-data; name=file; filename=\xe7\x94\x9f.mp3; filename*=utf-8''%E7%94%9F.mp3"
    quoted = file.replace(b"filename=\xe7\x94\x9f.mp3", b'filename="\xe7\x94\x9f.mp3"')
    others = [(b'form-data; name="timestamp_granularities[]"', b"word"), (b'form-data; name="prompt"', b"")]
    assert read_form(form((head, b"whisper-1"), (quoted, b"x"), *others)) == {"model": b"whisper-1"}


@pytest.mark.parametrize(
    "head",
    [
        b'form-data; name="Model"',
        b'form-data; name="model[]"',
        b'form-data; name="model.x"',
        b'form-data; name="mod%65l"',
        b'form-data; name=" model"',
        b'form-data; name="m\\odel"',
        b'form-data; name="model"; name="file"',
        b'form-data; name="file"; name="model"',
        b'form-data; name="file"; NAME="model"',
        b"form-data; name=\"file\"; name*=utf-8''model",
        b"form-data; name*=utf-8''model",
        b"form-data; name*0=mod; name*1=el",
        b'form-data; filename="x"; name="model"',
        b'form-data; name="model"; filename="x"',
        b"form-data; name=\"model\"; filename*=utf-8''x",
        b'form-data; name="file"; filename="x; name=model"',
        b'form-data; name="file"; filename="\\"; name=model; x=\\""',
        b'form-data; name="file" ; ; name="model"',
        b'form-data; name="file\tname"',
        b'form-data; name="str\xc5\xbfeam"',
        b'form-data; name="_charset_"',
        b'form-data; name=""',
        b"form-data",
        b'attachment; name="file"',
        b'form-data; name="file"\r\n name="model"',
        b'form-data; name="file"\nContent-Disposition: form-data; name="model"',
        b'form-data; name="file"\rX: y',
        b'form-data; name="file"\r\nContent-Disposition: form-data; name="model"',
        b'form-data; name="file"\r\nContent-Transfer-Encoding: base64',
        b'form-data; name="file"\r\nContent-Length: 3',
        b'form-data; name="file"\r\nX-Name: model',
        b'form-data; name="model"\r\nContent-Type: text/plain; charset=utf-16',
        b'form-data; name="model"\r\nContent-Type: application/json',
    ],
)
def test_a_part_that_two_parsers_could_read_differently_is_refused(head: bytes) -> None:
    assert read_form(form((head, b"x"), FILE)) is None
    assert read_form(form(MODEL, (head, b"x"))) is None


WHOLE = form(FILE, MODEL)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        WHOLE.removesuffix(b"--b0und--\r\n"),
        WHOLE.removesuffix(b"--\r\n"),
        WHOLE[:-3],
        b"preamble\r\n" + WHOLE,
        b"\r\n" + WHOLE,
        WHOLE + b"epilogue",
        WHOLE + WHOLE,
        WHOLE.replace(b"\r\n", b"\n"),
        WHOLE.replace(b"--b0und\r\n", b"--b0und \r\n"),
        form(FILE, MODEL, MODEL),
        form((FILE[0], b'x\n--b0und\nContent-Disposition: form-data; name="model"\n\ny'), MODEL),
        form((FILE[0], b'x--b0und\r\nContent-Disposition: form-data; name="model"\r\n\r\ny'), MODEL),
        form((FILE[0], b"x\r\n--b0und--"), MODEL),
        form((FILE[0], b"x\r\n--b0undary"), MODEL),
        form((b'form-data; name="model"', b"whis per")),
        form((b'form-data; name="model"', b"m\r\n")),
        form((b'form-data; name="model"', "生".encode())),
        form((b'form-data; name="model"', b"m" * 257)),
        b"--b0und\r\n\r\nno head\r\n--b0und--",
        b'--b0und\r\nContent-Disposition: form-data; name="a"\r\n--b0und--',
        b'--b0und\r\nContent-Disposition: form-data; name="a"\r\n\r\n--b0und--',
        form(*[(b"form-data; name=%d" % number, b"") for number in range(101)]),
        form((b'form-data; name="a"; filename="%b"' % (b"x" * 8200), b""), MODEL),
    ],
)
def test_a_form_that_two_parsers_could_cut_differently_is_refused(body: bytes) -> None:
    assert read_form(body) is None


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=b0und", "b0und"),
        ("Multipart/Form-Data;boundary=----WebKitFormBoundaryAb1", "----WebKitFormBoundaryAb1"),
        ('multipart/form-data; charset=UTF-8; boundary="===b:/?=="', "===b:/?=="),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ('multipart/form-data; boundary=""', None),
        ('multipart/form-data; boundary="a b"', None),
        ('multipart/form-data; boundary="a\\b"', None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=a; Boundary=b", None),
        ("multipart/form-data; boundary=a; boundary*=b", None),
        ("multipart/form-data; boundary=a,multipart/form-data; boundary=b", None),
        ("multipart/form-data; boundary=a;", None),
        ("multipart/form-data; charset=utf-16; boundary=a", None),
        ("multipart/form-data; boundary=" + "a" * 71, None),
        ("multipart/form-datax; boundary=a", None),
        ("multipart/mixed; boundary=a", None),
    ],
)
def test_a_boundary_is_taken_only_where_it_is_clear(content_type: str, boundary: str | None) -> None:
    found = FORM_LUA.globals()[b"boundary_of"](content_type.encode())
    assert found == (boundary.encode() if boundary is not None else None)


PIECES = [
    *(b"--b0und", b"--b0und--", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"--", b"x", b"whisper-1"),
    *(b"Content-Disposition: form-data", b'; name="model"', b'; name="file"', b"; name=stream", b'; filename="a"'),
    *(b"; name*=utf-8''model", b"Content-Type: text/plain", b"Content-Transfer-Encoding: base64", b"true"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=4), st.integers(0, len(WHOLE)), st.integers(0, 12))
def test_of_a_form_that_was_tampered_with_another_parser_reads_the_same(
    pieces: list[bytes], at: int, skipped: int
) -> None:
    """The other parser is Python's own, which forgives much; either form.lua refuses, or both see the same fields."""
    body = WHOLE[:at] + b"".join(pieces) + WHOLE[at + skipped :]
    told = read_form(body)
    if told is None:
        return
    head = b"Content-Type: multipart/form-data; boundary=b0und\r\n\r\n"
    message = message_from_bytes(head + body, policy=email.policy.HTTP)
    seen: dict[str, list[bytes]] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        seen.setdefault(str(name), []).append(part.get_payload(decode=True))  # type: ignore[arg-type]
    assert seen.get("model", [b""]) == [told["model"]]
    assert ("stream" in seen) == ("stream" in told)


@pytest.mark.parametrize(
    ("tools", "taken"),
    [
        ("[]", True),
        ("null", True),
        ('[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]', True),
        ('[ {"type" : "custom", "name":"x"} , {"name":"g","type":"function","strict":true} ]', True),
        ('[{"type":"web_search"}]', False),
        ('[{"type":"function"},{"type":"file_search","vector_store_ids":["vs_1"]}]', False),
        ('[{"type":"function","type":"code_interpreter"}]', False),
        ('[{"\\u0074ype":"web_search"}]', False),
        ('[{"name":"no type"}]', False),
        ('["web_search"]', False),
        ("{}", False),
    ],
)
def test_only_tools_that_the_caller_runs_are_let_through(tools: str, *, taken: bool) -> None:
    """A backend's own cost extra, and read what is kept in the shared account."""
    body = '{"model":"m","tools":' + tools + "}"
    assert edit(body)[0] == (body if taken else None)
    if not taken:
        assert edit(body)[1] == "tools"


@pytest.mark.parametrize(
    ("member", "name"),
    [
        ('"chat_template":"{{ x }}"', "chat_template"),
        ('"chat_template_kwargs":{"chat_template":"x"}', "chat_template_kwargs"),
        ('"lora_path":"x"', "lora_path"),
        ('"session_params":{}', "session_params"),
        ('"plugins":[{"id":"web"}]', "plugins"),
        ('"encoding_format":"bytes"', "encoding_format"),
        ('"service_tier":"flex"', "service_tier"),
    ],
)
def test_what_would_be_served_otherwise_than_priced_is_refused_by_name(member: str, name: str) -> None:
    assert edit('{"model":"m",' + member + "}") == (None, name)
    assert edit('{"model":"m","chat_template_kwargs":{"enable_thinking":false},"encoding_format":"base64"}')[0]


def test_running_usage_is_taken_back_where_it_is_no_sum() -> None:
    body = '{"model":"m","stream_options":{"continuous_usage_stats":true}}'
    after, _ = edit(body, include_usage=True, no_running_usage=True)
    assert after == '{"model":"m","stream_options":{"include_usage":true,"continuous_usage_stats":false}}'
