"""Examples of what goes over the wire, by the names of the schemas: one person, her key, and what it spent."""

from collections.abc import Mapping
from typing import Any

_KEY_ID = "key_0193a5c0d2a07e6f8b1c2d3e4f506172"
_DECISION_ID = "01a21ce0-6e00-70dc-ac32-a6350225bb93"
_SECRET = "gw-sk-" + "0" * 45 + "7f2a"
_TOKEN_SECRET = "gw-at-" + "0" * 45 + "9c1e"
_TOKEN = {"masked_token": "gw-at-****9c1e", "created_at": "2026-11-02T08:30:00Z"}
_QUOTA = {"kind": "monthly", "limit": "100.00"}
_KEY = {
    "id": _KEY_ID,
    "name": "production",
    "owner": "users/alice",
    "masked_key": "gw-sk-****7f2a",
    "quota": _QUOTA,
    "used": "0.00425",
    "remaining": "99.99575",
    "resets_at": "2026-11-30T16:00:00Z",
    "expires_at": "2030-12-31T16:00:00Z",
    "disabled": False,
    "allowed_models": None,
    "allowed_networks": ["192.0.2.0/24"],
    "created_at": "2026-11-02T09:00:00Z",
    "created_by": "users/alice",
    "last_used_at": "2026-11-27T12:00:00Z",
    "old_valid_until": None,
}
_RAISED = {**_KEY, "quota": {"kind": "monthly", "limit": "250.00"}, "remaining": "249.99575"}
_MEMBERSHIP = {"name": "acme", "owner": "organizations/acme", "role": "admin"}
_USER = {
    "name": "alice",
    "owner": "users/alice",
    "created_at": "2026-11-02T08:00:00Z",
    "access_token": _TOKEN,
    "organizations": [_MEMBERSHIP],
}
_ORGANIZATION = {**_MEMBERSHIP, "created_at": "2026-11-02T08:05:00Z", "members": 1}
_MEMBER = {"user": "alice", "role": "admin", "added_at": "2026-11-02T08:05:00Z"}
_TOKENS = {
    "input_tokens": 1000,
    "cached_input_tokens": 10,
    "cache_write_tokens": 0,
    "output_tokens": 20,
    "reasoning_tokens": 0,
    "audio_input_tokens": 0,
    "audio_output_tokens": 0,
}
_NOT_YET = {"replica": "keytoll-2-5f1c09ab", "until": "2026-11-27T12:00:03Z"}
_SUMS = {"requests": 1, **_TOKENS, "amount": "0.00425"}
_CHARGE = {
    "id": "chg_01a21ce06e0070dcac32a6350225bb93",
    "kind": "charge",
    "decision_id": _DECISION_ID,
    "key_id": _KEY_ID,
    "key_name": "production",
    "owner": "users/alice",
    "model": "Qwen2.5-72B-Instruct",
    "endpoint": "chat/completions",
    **_TOKENS,
    "price_id": "price_9e565cf2ac9db3e17e875dd80a434fe8",
    "amount": "0.00425",
    "currency": "CNY",
    "hold": "0.10",
    "beyond_hold": "0.00",
    "measured": "reported",
    "status": 200,
    "attempts": 1,
    "request_bytes": 4001,
    "answer_bytes": 400,
    "events": None,
    "month": "2026-11",
    "admitted_at": "2026-11-27T12:00:00Z",
    "settled_at": "2026-11-27T12:00:00.250000Z",
}
_PRICED = (
    ("input", 1000, "4.00", "0.004"),
    ("cached_input", 10, "1.00", "0.00001"),
    ("output", 20, "12.00", "0.00024"),
)
_EXPLAINED = {
    **_CHARGE,
    "refers_to": None,
    "price_from": None,
    "served": True,
    "lines": [
        {"item": item, "count": count, "price": price, "per": 1_000_000, "product": product}
        for item, count, price, product in _PRICED
    ],
    "sum": "0.00425",
    "rounding": "0.00",
    "rounded": "0.00425",
    "capped": False,
    "adds_up": True,
    "estimates": [],
}
_UNSETTLED = {
    "id": "uns_01a21ce06e0070dcac32a6350225bb93",
    "decision_id": _DECISION_ID,
    "key_id": _KEY_ID,
    "owner": "users/alice",
    "model": "Qwen2.5-72B-Instruct",
    "admitted_at": "2026-11-27T12:00:00Z",
    "hold": "0.10",
    "noted_at": "2026-11-27T13:00:00Z",
    "corrected_by": None,
}
_EVENT = {
    "id": "evt_01a21ce06e007c739873ac33e3b40c2f",
    "at": "2026-11-02T08:05:00Z",
    "actor": "operator",
    "action": "member.put",
    "owner": "organizations/acme",
    "subject": "alice",
    "subject_name": "alice",
    "source": "operator.sock",
    "before": {"user": "alice", "role": "member"},
    "after": {"user": "alice", "role": "admin"},
}
_EFFECTS = ["From now on a limit of ¥250.00 applies to each calendar month", "The key is not blocked by its quota."]
_MISSING = {"message": "name: is required", "type": "invalid_request_error", "param": "name"}


def _page(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": [item], "next": None}


EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "About": {
        "version": "1.0.0",
        "currency": "CNY",
        "billing_time_zone": "Asia/Shanghai",
        "base_url": "https://gateway.example/v1",
    },
    "AccessTokenOut": _TOKEN,
    "ArchiveIn": {"before": "2026-01-01"},
    "ArchivedOut": {"archive": "2026-01-01", "rows": 1000, "complete": True},
    "ChargeDetail": _EXPLAINED,
    "ChargePage": _page(_CHARGE),
    "CreatedKey": {**_KEY, "secret": _SECRET},
    "EditPreviewOut": {"before": _KEY, "after": _RAISED, "effects": _EFFECTS, "from": "2026-11-27T12:00:00Z"},
    "EventPage": _page(_EVENT),
    "KeyIn": {"name": "production", "quota": _QUOTA, "expires_at": "2030-12-31T16:00:00Z"},
    "KeyOut": _KEY,
    "KeyPage": _page(_KEY),
    "KeyPatch": {"quota": {"kind": "monthly", "limit": "250"}, "expires_at": None},
    "Me": {
        "kind": "user",
        "name": "alice",
        "owner": "users/alice",
        "access_token": _TOKEN,
        "organizations": [_MEMBERSHIP],
    },
    "MemberIn": {"role": "admin"},
    "MemberOut": _MEMBER,
    "MemberPage": _page(_MEMBER),
    "NewAccessToken": {**_TOKEN, "secret": _TOKEN_SECRET},
    "NotEverywhereOut": {"not_yet": [_NOT_YET]},
    "NotYetOut": _NOT_YET,
    "OrganizationIn": {"name": "acme", "admin": "alice"},
    "OrganizationOut": _ORGANIZATION,
    "OrganizationPage": _page(_ORGANIZATION),
    "Problem": {"error": {**_MISSING, "code": "missing_required_parameter"}},
    "RotateIn": {"old_valid_until": "2030-12-31T16:00:00Z"},
    "SessionIn": {"access_token": _TOKEN_SECRET},
    "UnsettledPage": _page(_UNSETTLED),
    "UsageOut": {
        "since": "2026-11-01",
        "until": "2026-11-27",
        "currency": "CNY",
        "billing_time_zone": "Asia/Shanghai",
        "data": [{"day": "2026-11-27", "key_id": _KEY_ID, "key_name": "production", **_SUMS}],
        "total": _SUMS,
    },
    "UserIn": {"name": "alice"},
    "UserOut": _USER,
    "UserPage": _page(_USER),
}
