"""Pictures in the audit log: all that may be shown, and no secret."""

import base64
import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.access import Networks
from keytoll.core.audit import key_picture, member_picture, organization_picture, token_picture, user_picture
from keytoll.core.keys import Key
from keytoll.core.owners import AccessToken, Member, Organization, User
from keytoll.core.permissions import Role
from keytoll.core.quota import Quota, QuotaKind
from keytoll.core.secrets import KEY_PREFIX, TOKEN_PREFIX, digest_of, mint

_random = st.binary(min_size=32, max_size=32)


def _tellings(secret: str) -> Sequence[str]:
    """Return whatever would give a secret away, or the digest that stands for it."""
    digest = digest_of(secret)
    encoded = (base64.b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode().rstrip("="))
    return secret[6:-4], digest.hex(), digest.hex().upper(), *encoded, repr(digest)[2:-1], str(list(digest))[1:-1]


@given(_random, _random)
def test_a_picture_of_a_key_tells_neither_secret_nor_digest(random: bytes, old: bytes) -> None:
    secret, before = mint(KEY_PREFIX, random), mint(KEY_PREFIX, old)
    key = Key("key_1", "users/a", "n", digest_of(secret), secret[-4:], Quota(), None, 0)
    rotated = Key(
        "key_1",
        "users/a",
        "n",
        key.digest,
        key.last4,
        Quota(),
        1,
        0,
        old_digest=digest_of(before),
        old_valid_until_us=9,
    )
    written = json.dumps([key_picture(key), key_picture(rotated)])
    assert not any(telling in written for telling in (*_tellings(secret), *_tellings(before)))
    assert f"gw-sk-****{secret[-4:]}" in written


@given(_random)
def test_a_picture_of_a_token_tells_neither_secret_nor_digest(random: bytes) -> None:
    secret = mint(TOKEN_PREFIX, random)
    token = AccessToken(digest_of(secret), secret[-4:], 0)
    written = json.dumps([token_picture(token), user_picture(User("alice", 0, token))])
    assert not any(telling in written for telling in _tellings(secret))
    assert written.count(f"gw-at-****{secret[-4:]}") == 2


def test_a_picture_of_a_key_has_everything_that_an_edit_may_change_as_the_api_writes_it() -> None:
    quota, networks = Quota(QuotaKind.MONTHLY, 100_500_000_000), Networks(("10.0.0.0/8",))
    key = Key("key_1", "users/a", "n", b"d", "7f2a", quota, 1_000_000, 0, "operator", True, ("m",), networks)
    assert key_picture(key) == {
        "name": "n",
        "owner": "users/a",
        "masked_key": "gw-sk-****7f2a",
        "quota": {"kind": "monthly", "limit": "100.50"},
        "expires_at": "1970-01-01T00:00:01Z",
        "disabled": True,
        "allowed_models": ["m"],
        "allowed_networks": ["10.0.0.0/8"],
        "old_valid_until": None,
    }


def test_pictures_of_owners_and_members() -> None:
    assert organization_picture(Organization("acme", 0, 1), admin="alice") == {
        "name": "acme",
        "members": 1,
        "admin": "alice",
    }
    assert organization_picture(Organization("acme", 0, 0)) == {"name": "acme", "members": 0}
    assert member_picture(Member("alice", Role.ADMIN, 0)) == {"user": "alice", "role": "admin"}
    assert user_picture(User("alice", 0, None, {"acme": Role.MEMBER})) == {
        "name": "alice",
        "access_token": None,
        "organizations": {"acme": "member"},
    }
    assert (member_picture(None), token_picture(None)) == (None, None)
