"""A journal as Envoy writes it, of as many requests as asked for."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from bench import books
from bench.check_server import OFFER
from keytoll.core.decision import Admission
from keytoll.core.endpoints import ENDPOINTS
from keytoll.core.ids import uuid7
from keytoll.core.keys import Key
from keytoll.core.quota import Quota
from keytoll.envoy.answers import Admitted
from keytoll.envoy.messages.check_pb2 import CheckResponse

_ENDPOINT = ENDPOINTS["/v1/chat/completions"]
_EACH_US = 250


def write(path: Path, *, entries: int, keys: int, first: int = 0) -> None:
    """Write the lines of requests number `first` on, spread over keys, in whole at once."""
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(_lines(entries, keys, first)))
    part.rename(path)


def _lines(entries: int, keys: int, first: int) -> Iterator[str]:
    answers = Admitted()
    for number in range(first, first + entries):
        yield json.dumps(_record(answers, number, number % keys), separators=(",", ":")) + "\n"


def _record(answers: Admitted, number: int, key: int) -> dict[str, object]:
    at_us = books.NOW_US + number * _EACH_US
    decision_id = uuid7(at_us, hashlib.sha256(b"%d" % number).digest()[:10])
    answer = answers.answer(_admission(key, at_us), decision_id)
    check = MessageToDict(CheckResponse.FromString(answer).dynamic_metadata)
    return {
        "v": 2,
        "type": "DownstreamEnd",
        "id": str(decision_id),
        "start": f"{at_us // 1_000_000}.{at_us % 1_000_000:06}",
        "ms": 2,
        "first_ms": 2,
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "flags": "-",
        "details": "via_upstream",
        "received": 420,
        "sent": 371,
        "cluster": OFFER.pool,
        "member": f"{OFFER.pool}#0",
        "host": "127.0.0.1:8082",
        "attempts": 1,
        "decision_id": check["decision_id"],
        "entry": check["entry"],
        "usage": {"usage": '{"prompt_tokens": 40, "completion_tokens": 24, "total_tokens": 64}'},
        "lua": None,
    }


def _admission(key: int, at_us: int) -> Admission:
    owner = f"users/u{key // books.KEYS_OF_AN_OWNER}"
    return Admission(
        key=Key(books.key_id(key), owner, "", b"", "", Quota(), None, 0),
        offer=OFFER,
        price=OFFER.prices[0],
        endpoint=_ENDPOINT,
        stream=False,
        wants_usage=False,
        many_answers=False,
        admitted_at_us=at_us,
        month="2026-09",
        worst_nano=1_000_000,
    )
