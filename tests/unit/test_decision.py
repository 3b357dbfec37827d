"""Admission: the error contract, reason by reason and in its order."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from keytoll.core.access import Networks
from keytoll.core.decision import (
    ANSWERS,
    JSON_CONTENT_TYPE,
    MALFORMED_KEY,
    MAX_BODY_BYTES,
    UNAVAILABLE,
    UNKNOWN_KEY,
    Account,
    Admission,
    Denial,
    Read,
    Reason,
    Request,
    Rules,
    Scalar,
    decide,
    decide_by_headers,
    shape_of,
)
from keytoll.core.endpoints import ENDPOINTS
from keytoll.core.holds import KeyHolds
from keytoll.core.keys import Key
from keytoll.core.months import Calendar, to_us
from keytoll.core.offer import Offer, PriceVersion
from keytoll.core.pricing import Prices
from keytoll.core.quota import Quota, QuotaKind, Totals

PRICES = Prices(input=1, output=1, cached_input=1, cache_write=1, audio_input=1, audio_output=1)
OFFER = Offer(
    model="m",
    pool="model/m",
    prices=(PriceVersion(0, PRICES, PRICES.id),),
    retries=0,
    upstream_model="up",
    running_usage=False,
    context_length=1000,
    maximum_output=100,
)
RULES = Rules(Calendar(ZoneInfo("Asia/Shanghai")), "CNY", {"m": OFFER})
NOW_US = to_us(datetime(2026, 11, 25, 12, tzinfo=UTC))
KEY = Key("key_1", "users/alice", "production", b"", "7f2a", Quota(), None, 0)


@dataclass(frozen=True)
class Asked:
    """A request in its parts, so that a test can change one of them."""

    method: str
    path: str
    content_type: str
    declared_bytes: int | None
    facts: Mapping[str, Scalar]
    source: str = ""

    @property
    def request(self) -> Request:
        shape = shape_of(method=self.method, path=self.path, content_type=self.content_type, facts=self.facts)
        return Request(shape, self.declared_bytes, self.source)


REQUEST = Asked("POST", "/v1/chat/completions", "application/json", 100, {"model": "m"})


def judged(
    request: Asked = REQUEST, *, key: Key = KEY, totals: Totals | None = None, holds: KeyHolds | None = None
) -> Admission | Read | Denial:
    account = Account(key, totals or Totals(), holds or KeyHolds())
    return decide(account=account, request=request.request, rules=RULES, now_us=NOW_US)


def asking(**facts: Any) -> Asked:
    return replace(REQUEST, facts={"model": "m", **facts})


def denied(verdict: Admission | Read | Denial | None) -> Denial:
    assert isinstance(verdict, Denial)
    return verdict


def test_a_request_within_the_rules_is_admitted_in_the_month_of_its_admission() -> None:
    verdict = judged(asking(stream=True, include_usage=True, max_tokens=5.0, n=1.0))
    assert isinstance(verdict, Admission)
    assert (verdict.key, verdict.offer, verdict.stream, verdict.wants_usage) == (KEY, OFFER, True, True)
    assert (verdict.admitted_at_us, verdict.month, verdict.endpoint.name) == (NOW_US, "2026-11", "chat/completions")


def test_a_key_lives_until_its_expiry_to_the_microsecond() -> None:
    """User report 5."""
    assert isinstance(judged(key=replace(KEY, expires_at_us=NOW_US + 1)), Admission)
    denial = denied(judged(key=replace(KEY, expires_at_us=NOW_US)))
    assert denial.reason is Reason.EXPIRED_KEY
    assert "expired at 2026-11-25T20:00:00+08:00" in denial.message


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/chat/completions/", "/v1/Chat/completions", "/v2/chat/completions", "/v1/files", "/v1/batches"],
)
def test_a_path_that_is_not_in_the_table_is_refused(path: str) -> None:
    """User report 17: what is not metered is not served."""
    assert denied(judged(replace(REQUEST, path=path))).reason is Reason.UNKNOWN_PATH


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "post"])
def test_another_method_is_refused_and_told_which_is_allowed(method: str) -> None:
    denial = denied(judged(replace(REQUEST, method=method)))
    assert denial.reason is Reason.METHOD_NOT_ALLOWED
    assert denial.headers["allow"] == "POST"


@pytest.mark.parametrize("content_type", ["", "text/plain", "multipart/form-data; boundary=x", "application/jsonx"])
def test_a_body_that_is_not_declared_as_json_is_refused(content_type: str) -> None:
    assert denied(judged(replace(REQUEST, content_type=content_type))).reason is Reason.BAD_BODY


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json", "application/json ;x"],
)
def test_every_way_to_write_json_is_taken(content_type: str) -> None:
    assert JSON_CONTENT_TYPE.fullmatch(content_type)
    assert isinstance(judged(replace(REQUEST, content_type=content_type)), Admission)


@pytest.mark.parametrize("facts", [{}, {"bad_body": True}, {"bad_body": True, "model": "m"}, {"stream": True}])
def test_a_body_that_envoy_could_not_read_is_refused(facts: dict[str, Any]) -> None:
    assert denied(judged(replace(REQUEST, facts=facts))).reason is Reason.BAD_BODY


def test_a_body_of_more_values_than_envoy_should_parse_is_too_large() -> None:
    denial = denied(judged(replace(REQUEST, facts={"too_complex": True, "model": ""})))
    assert (denial.status, denial.reason) == (413, Reason.TOO_LARGE)


@pytest.mark.parametrize(
    ("facts", "param"),
    [
        ({"stream": "true"}, "stream"),
        ({"stream": 1.0}, "stream"),
        ({"include_usage": "true"}, "stream_options.include_usage"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"best_of": "2"}, "best_of"),
        ({"max_tokens": -1.0}, "max_tokens"),
        ({"max_completion_tokens": ""}, "max_completion_tokens"),
        ({"max_output_tokens": float("inf")}, "max_output_tokens"),
        ({"max_output_tokens": float("nan")}, "max_output_tokens"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_by_name(facts: dict[str, Any], param: str) -> None:
    denial = denied(judged(asking(**facts)))
    assert (denial.reason, denial.param) == (Reason.BAD_FIELD, param)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("store", True),
        ("store", "true"),
        ("background", True),
        ("previous_response_id", "resp_1"),
        ("previous_response_id", ""),
        ("conversation", "conv_1"),
    ],
)
def test_what_would_keep_state_at_a_shared_backend_is_refused(name: str, value: object) -> None:
    denial = denied(judged(asking(**{name: value})))
    assert (denial.reason, denial.param) == (Reason.REFUSED_FIELD, name)
    assert json.loads(denial.body)["error"]["code"] == "unsupported_parameter"


def test_saying_no_to_stored_state_is_fine() -> None:
    assert isinstance(judged(asking(store=False, background=False)), Admission)


@pytest.mark.parametrize("model", ["", 5.0, True])
def test_a_missing_model_is_asked_for(model: object) -> None:
    denial = denied(judged(asking(model=model)))
    assert (denial.reason, denial.param, denial.status) == (Reason.MISSING_MODEL, "model", 400)


@pytest.mark.parametrize("model", ["gpt-4", "M", "m ", "model/m"])
def test_a_model_that_is_not_on_offer_is_not_found(model: str) -> None:
    denial = denied(judged(asking(model=model)))
    assert (denial.status, json.loads(denial.body)["error"]["code"]) == (404, "model_not_found")


def test_a_body_that_declares_itself_too_large_is_refused() -> None:
    assert isinstance(judged(replace(REQUEST, declared_bytes=MAX_BODY_BYTES)), Admission)
    denial = denied(judged(replace(REQUEST, declared_bytes=MAX_BODY_BYTES + 1)))
    assert (denial.status, denial.reason) == (413, Reason.TOO_LARGE)


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        (
            Quota(QuotaKind.MONTHLY, 5_000_000_000),
            'The monthly quota of the API key "production", ¥5.00, is spent; it resets at 2026-12-01T00:00:00+08:00',
        ),
        (
            Quota(QuotaKind.TOTAL, 5_000_000_000),
            'The total quota of the API key "production", ¥5.00, is spent; it does not reset; raise it or use another key',
        ),
    ],
)
def test_a_spent_key_is_told_which_limit_was_hit_and_when_it_resets(quota: Quota, message: str) -> None:
    """User reports 15 and 30."""
    totals = Totals(5_000_000_000, {"2026-11": 5_000_000_000})
    denial = denied(judged(key=replace(KEY, quota=quota), totals=totals))
    assert denial.message == message
    error = json.loads(denial.body)["error"]
    assert (denial.status, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
    assert denial.headers["x-should-retry"] == "false"
    assert "retry-after" not in denial.headers


def test_the_checks_run_in_the_order_of_the_error_contract() -> None:
    """Each step mends the first fault; the next one must then show."""
    key = replace(KEY, expires_at_us=NOW_US, quota=Quota(QuotaKind.TOTAL, 0))
    request = Asked("GET", "/nowhere", "text/plain", MAX_BODY_BYTES + 1, {"stream": "x", "store": True})
    steps: list[tuple[Reason, dict[str, Any]]] = [
        (Reason.EXPIRED_KEY, {}),
        (Reason.UNKNOWN_PATH, {"path": "/v1/responses"}),
        (Reason.METHOD_NOT_ALLOWED, {"method": "POST"}),
        (Reason.BAD_BODY, {"content_type": "application/json"}),
        (Reason.BAD_BODY, {"facts": {"model": "", "stream": "x", "store": True}}),
        (Reason.BAD_FIELD, {"facts": {"model": "", "store": True}}),
        (Reason.REFUSED_FIELD, {"facts": {"model": ""}}),
        (Reason.TOO_LARGE, {"declared_bytes": 10}),
        (Reason.MISSING_MODEL, {"facts": {"model": "nope"}}),
        (Reason.UNKNOWN_MODEL, {"facts": {"model": "m"}}),
        (Reason.QUOTA_SPENT, {}),
    ]
    for reason, mend in steps:
        assert denied(judged(request, key=key)).reason is reason
        if reason is Reason.EXPIRED_KEY:
            key = replace(key, expires_at_us=None)
        request = replace(request, **mend)
    assert isinstance(judged(request, key=replace(key, quota=Quota())), Admission)


def test_headers_alone_judge_all_that_headers_tell_and_nothing_of_the_body() -> None:
    def by_headers(request: Asked, key: Key = KEY) -> Denial | None:
        return decide_by_headers(account=Account(key), request=request.request, rules=RULES, now_us=NOW_US)

    bare = replace(REQUEST, facts={})
    assert by_headers(bare) is None
    assert denied(by_headers(bare, replace(KEY, expires_at_us=1))).reason is Reason.EXPIRED_KEY
    assert denied(by_headers(replace(bare, path="/x"))).reason is Reason.UNKNOWN_PATH
    assert denied(by_headers(replace(bare, method="PUT"))).reason is Reason.METHOD_NOT_ALLOWED
    assert denied(by_headers(replace(bare, content_type=""))).reason is Reason.BAD_BODY
    assert denied(by_headers(replace(bare, declared_bytes=MAX_BODY_BYTES + 1))).reason is Reason.TOO_LARGE
    assert denied(by_headers(bare, replace(KEY, quota=Quota(QuotaKind.TOTAL, 0)))).reason is Reason.QUOTA_SPENT


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ALLOWED])
def test_every_refusal_has_openais_shape_and_says_whether_a_retry_helps(reason: Reason) -> None:
    denial = Denial(reason, 'a "message"', "param")
    assert json.loads(denial.body) == {
        "error": {
            "message": 'a "message"',
            "type": ANSWERS[reason].type,
            "param": "param",
            "code": ANSWERS[reason].code,
        }
    }
    assert denial.headers["content-type"] == "application/json"
    assert ("retry-after" in denial.headers) != ("x-should-retry" in denial.headers)
    assert ("www-authenticate" in denial.headers) == (denial.status == 401)


def test_only_an_outage_may_be_retried() -> None:
    assert [denial.status for denial in (MALFORMED_KEY, UNKNOWN_KEY, UNAVAILABLE)] == [401, 401, 503]
    assert {reason for reason, answer in ANSWERS.items() if answer.retry} == {
        Reason.UNAVAILABLE,
        Reason.QUOTA_HELD,
        Reason.TOO_MANY_LARGE,
    }


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/v1/models/org/name", "/v1/key"])
def test_a_read_needs_a_key_that_lives_and_nothing_else(path: str) -> None:
    request = Asked("GET", path, "", None, {})
    spent = replace(KEY, quota=Quota(QuotaKind.TOTAL, 0))
    assert judged(request, key=spent) == Read(spent, ENDPOINTS["/v1/key" if path == "/v1/key" else "/v1/models"], 0)
    assert denied(judged(request, key=replace(KEY, expires_at_us=1))).reason is Reason.EXPIRED_KEY
    denial = denied(judged(replace(request, method="POST")))
    assert (denial.reason, denial.headers["allow"]) == (Reason.METHOD_NOT_ALLOWED, "GET")


def test_a_form_is_taken_where_the_endpoint_takes_one_and_nowhere_else() -> None:
    form = replace(REQUEST, path="/v1/audio/transcriptions", content_type="multipart/form-data; boundary=x")
    assert isinstance(judged(form), Admission)
    assert denied(judged(replace(form, content_type="application/json"))).reason is Reason.BAD_BODY
    assert denied(judged(replace(form, path="/v1/chat/completions"))).reason is Reason.BAD_BODY


def test_a_price_applies_from_its_date_on() -> None:
    dearer = PriceVersion(NOW_US, replace(PRICES, input=9), "price_dearer")
    offer = replace(OFFER, prices=(*OFFER.prices, dearer))
    for now_us, price in ((NOW_US - 1, OFFER.prices[0]), (NOW_US, dearer), (NOW_US + 1, dearer), (-1, OFFER.prices[0])):
        verdict = decide(
            account=Account(KEY), request=REQUEST.request, rules=replace(RULES, offers={"m": offer}), now_us=now_us
        )
        assert isinstance(verdict, Admission)
        assert verdict.price == price


LIMITED = replace(KEY, quota=Quota(QuotaKind.TOTAL, 1_000))


def test_a_request_that_does_not_fit_beside_those_under_way_is_told_to_come_again() -> None:
    denial = denied(judged(key=LIMITED, holds=KeyHolds().plus("2026-11", 1_000)))
    assert (denial.reason, denial.status, denial.headers["retry-after"]) == (Reason.QUOTA_HELD, 429, "1")
    assert json.loads(denial.body)["error"]["type"] == "rate_limit_error"
    assert json.loads(denial.body)["error"]["code"] == "rate_limit_exceeded"


def test_a_spent_key_is_not_told_to_come_again_even_while_requests_run() -> None:
    verdict = judged(key=LIMITED, totals=Totals(1_000), holds=KeyHolds().plus("2026-11", 5))
    assert denied(verdict).reason is Reason.QUOTA_SPENT


def test_a_request_holds_its_worst_case() -> None:
    offer = replace(OFFER, prices=(PriceVersion(0, replace(PRICES, input=1_000_000, output=10_000_000), "p"),))
    rules = replace(RULES, offers={"m": offer})

    def worst(**facts: Any) -> int | None:
        verdict = decide(account=Account(KEY), request=asking(**facts).request, rules=rules, now_us=NOW_US)
        assert isinstance(verdict, Admission)
        return verdict.worst_nano

    body = 100 + 256
    assert worst() == body + 100 * 10
    assert worst(max_tokens=7.0) == body + 7 * 10
    assert worst(max_tokens=7.0, max_completion_tokens=9.0, n=2.0, best_of=3.0) == body + 9 * 3 * 10
    assert worst(max_tokens=0.0) == body + 100 * 10
    # backends ignore what their endpoint doesn't know: it must not make the hold smaller
    assert worst(max_output_tokens=1.0) == body + 100 * 10
    assert worst(max_tokens=1e300) == body + 1000 * 10
    assert worst(n=1e18) == body + 100 * 10**18 * 10 if body + 10**21 < 2**63 else 2**63 - 1


@pytest.mark.parametrize(
    ("path", "obeyed"),
    [
        ("/v1/chat/completions", {"max_tokens", "max_completion_tokens"}),
        ("/v1/responses", {"max_output_tokens"}),
        ("/v1/images/generations", set()),
        ("/v1/audio/speech", set()),
    ],
)
def test_only_the_limits_that_an_endpoint_obeys_make_a_hold_smaller(path: str, obeyed: set[str]) -> None:
    prices = Prices(input=0, output=1_000_000, cached_input=0, cache_write=0, audio_input=0, audio_output=0)
    rules = replace(RULES, offers={"m": replace(OFFER, prices=(PriceVersion(0, prices, "p"),))})

    def bounded(**facts: Any) -> int | None:
        request = replace(asking(**facts), path=path)
        verdict = decide(account=Account(KEY), request=request.request, rules=rules, now_us=NOW_US)
        assert isinstance(verdict, Admission)
        return verdict.worst_nano

    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        assert bounded(**{name: 1.0}) == (1 if name in obeyed else 100), name


@pytest.mark.parametrize("judge", [judged, lambda request=REQUEST, *, key: by_headers(request, key=key)])
def test_a_disabled_key_is_refused_like_an_unknown_one_in_both_checks(judge: Callable[..., Any]) -> None:
    denial = denied(judge(key=replace(KEY, disabled=True, expires_at_us=1)))
    assert (denial.reason, denial.status) == (Reason.DISABLED_KEY, UNKNOWN_KEY.status)
    assert ANSWERS[denial.reason] == ANSWERS[UNKNOWN_KEY.reason]


@pytest.mark.parametrize("judge", [judged, lambda request=REQUEST, *, key: by_headers(request, key=key)])
def test_a_network_is_judged_right_after_the_expiry_in_both_checks(judge: Callable[..., Any]) -> None:
    key = replace(KEY, allowed_networks=Networks(("10.0.0.0/8", "2001:db8::/32")))
    elsewhere = replace(REQUEST, source="192.0.2.1", path="/nowhere")
    denial = denied(judge(elsewhere, key=key))
    assert (denial.status, json.loads(denial.body)["error"]["code"]) == (403, "ip_not_allowed")
    assert denied(judge(elsewhere, key=replace(key, expires_at_us=1))).reason is Reason.EXPIRED_KEY
    for source in ("10.255.0.1", "2001:db8::1"):
        assert not isinstance(judge(replace(REQUEST, source=source), key=key), Denial)
    assert denied(judge(replace(REQUEST, source=""), key=key)).reason is Reason.NETWORK_NOT_ALLOWED


def by_headers(request: Asked, *, key: Key) -> Denial | None:
    return decide_by_headers(account=Account(key), request=request.request, rules=RULES, now_us=NOW_US)


def test_a_model_that_a_key_may_not_use_is_told_apart_from_one_that_is_not_there() -> None:
    key = replace(KEY, allowed_models=("n", "later"))
    denial = denied(judged(key=key))
    error = json.loads(denial.body)["error"]
    assert (denial.status, error["code"], error["param"]) == (403, "model_not_found", "model")
    assert denied(judged(asking(model="n"), key=key)).status == 404
    assert isinstance(judged(key=replace(KEY, allowed_models=("n", "m"))), Admission)


def test_a_model_that_a_key_may_not_use_is_refused_before_a_spent_quota() -> None:
    key = replace(KEY, allowed_models=("n",), quota=Quota(QuotaKind.TOTAL, 0))
    assert denied(judged(key=key)).reason is Reason.MODEL_NOT_ALLOWED


def test_an_old_secret_works_until_its_time_to_the_microsecond() -> None:
    key = replace(KEY, old_digest=b"old", old_valid_until_us=NOW_US)
    for account, admitted in (
        (Account(key, by_old_secret=True), False),
        (Account(replace(key, old_valid_until_us=NOW_US + 1), by_old_secret=True), True),
        (Account(KEY, by_old_secret=True), False),
        (Account(key), True),
    ):
        verdict = decide(account=account, request=REQUEST.request, rules=RULES, now_us=NOW_US)
        assert isinstance(verdict, Admission) == admitted
        assert admitted or verdict == UNKNOWN_KEY


def test_what_is_left_counts_what_is_spent_held_and_the_requests_own_hold() -> None:
    key = replace(KEY, quota=Quota(QuotaKind.MONTHLY, 1000))
    totals = Totals(900, {"2026-11": 100, "2026-10": 800})
    holds = KeyHolds().plus("2026-11", 50).plus("2026-10", 400)
    verdict = judged(key=key, totals=totals, holds=holds)
    assert isinstance(verdict, Admission)
    assert verdict.worst_nano is not None
    assert verdict.left_nano == 1000 - 100 - 50 - verdict.worst_nano
    read = judged(Asked("GET", "/v1/key", "", None, {}), key=key, totals=totals, holds=holds)
    assert isinstance(read, Read)
    assert read.left_nano == 1000 - 100 - 50


def test_what_is_left_is_never_below_nothing_and_untold_without_a_limit() -> None:
    for key, left_nano in ((KEY, None), (replace(KEY, quota=Quota(QuotaKind.TOTAL, 1)), 0)):
        verdict = judged(key=key)
        assert isinstance(verdict, Admission)
        assert verdict.left_nano == left_nano
    unbounded = judged(replace(REQUEST, path="/v1/completions"), key=replace(KEY, quota=Quota(QuotaKind.TOTAL, 10**18)))
    assert isinstance(unbounded, Admission)
    assert (unbounded.worst_nano, unbounded.left_nano) == (None, 0)
