"""Keys: the secret's form, names, owners, ids."""

import string
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.errors import InvalidValue
from keytoll.core.ids import uuid7
from keytoll.core.keys import Key, check_name
from keytoll.core.owners import check_owner
from keytoll.core.quota import Quota
from keytoll.core.secrets import KEY_PREFIX, digest_of, is_well_formed, mint

BASE62 = string.digits + string.ascii_letters


@given(st.binary(min_size=32, max_size=32))
def test_a_minted_secret_is_well_formed_and_tells_its_256_bits_apart(random: bytes) -> None:
    secret = mint(KEY_PREFIX, random)
    assert secret.startswith("gw-sk-")
    assert len(secret) == len("gw-sk-") + 43 + 6
    assert set(secret[6:]) <= set(BASE62)
    assert is_well_formed(KEY_PREFIX, secret)
    other = bytes([random[0] ^ 1]) + random[1:]
    assert mint(KEY_PREFIX, other) != secret
    assert digest_of(mint(KEY_PREFIX, other)) != digest_of(secret)


@given(st.binary(min_size=32, max_size=32), st.integers(6, 54), st.sampled_from(BASE62))
def test_any_single_typo_is_recognised_without_a_lookup(random: bytes, at: int, char: str) -> None:
    secret = mint(KEY_PREFIX, random)
    typo = secret[:at] + char + secret[at + 1 :]
    assert is_well_formed(KEY_PREFIX, typo) == (typo == secret)


@pytest.mark.parametrize("text", ["", "gw-sk-", "gw-sk-" + "0" * 49, "sk-" + "0" * 49, "gw-sk-" + "é" * 49, "gw-at-x"])
def test_what_is_no_key_is_recognised(text: str) -> None:
    assert not is_well_formed(KEY_PREFIX, text)


def test_a_line_end_after_a_secret_is_not_part_of_it() -> None:
    assert not is_well_formed(KEY_PREFIX, mint(KEY_PREFIX, bytes(32)) + "\n")


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        mint(KEY_PREFIX, b"short")


def test_a_key_shows_its_last_four_characters_and_never_its_digest() -> None:
    key = Key("key_1", "users/a", "n", b"secret digest", "7f2a", Quota(), None, 0)
    assert key.masked == "gw-sk-****7f2a"
    assert "digest" not in repr(key)


@pytest.mark.parametrize("name", ["production", "España 生产 🚀", "x" * 100, "  trimmed  "])
def test_names_in_any_script_are_taken(name: str) -> None:
    """User report 7."""
    assert check_name(name) == name.strip()


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "x" * 1000, "a\x00b", "a\nb", "a\x7fb", "a\u2028b", "a\ud800b"])
def test_names_that_are_empty_too_long_or_hold_control_characters_are_refused(name: str) -> None:
    """User report 7."""
    with pytest.raises(InvalidValue) as raised:
        check_name(name)
    assert raised.value.field == "name"


@pytest.mark.parametrize("owner", ["users/alice", "organizations/acme-corp", "users/a", "users/a.b_c-d"])
def test_owners_are_people_and_organizations(owner: str) -> None:
    assert check_owner(owner) == owner


@pytest.mark.parametrize(
    "owner", ["", "alice", "users/", "groups/a", "users/a/b", "users/-a", "users/a-", "users/é", "users/" + "a" * 65]
)
def test_other_owners_are_refused(owner: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        check_owner(owner)
    assert raised.value.field == "owner"


@given(st.integers(0, 2**48 * 1000 - 1), st.binary(min_size=10, max_size=10))
def test_ids_are_uuids_of_version_7_that_sort_by_time(at_us: int, random: bytes) -> None:
    made = uuid7(at_us, random)
    assert made.version == 7
    assert made.variant == UUID(int=0x8000 << 48 | 0).variant or made.variant == "specified in RFC 4122"
    assert made.int >> 80 == at_us // 1000
    with pytest.raises(ValueError, match="10"):
        uuid7(at_us, b"")
