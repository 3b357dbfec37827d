"""Secrets: the form of keys and access tokens, and what is kept of them."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.secrets import KEY_PREFIX, TOKEN_PREFIX, digest_of, is_well_formed, masked, mint

BASE62 = string.digits + string.ascii_letters
PREFIXES = (KEY_PREFIX, TOKEN_PREFIX)

_prefixes = st.sampled_from(PREFIXES)
_random = st.binary(min_size=32, max_size=32)


@given(_prefixes, _random)
def test_a_minted_secret_is_well_formed_and_tells_its_256_bits_apart(prefix: str, random: bytes) -> None:
    secret = mint(prefix, random)
    assert secret.startswith(prefix)
    assert len(secret) == len(prefix) + 43 + 6
    assert set(secret[6:]) <= set(BASE62)
    assert is_well_formed(prefix, secret)
    other = bytes([random[0] ^ 1]) + random[1:]
    assert mint(prefix, other) != secret
    assert digest_of(mint(prefix, other)) != digest_of(secret)


@given(_prefixes, _random, st.integers(6, 54), st.sampled_from(BASE62))
def test_any_single_typo_is_recognised_without_a_lookup(prefix: str, random: bytes, at: int, char: str) -> None:
    secret = mint(prefix, random)
    typo = secret[:at] + char + secret[at + 1 :]
    assert is_well_formed(prefix, typo) == (typo == secret)


@given(_random)
def test_a_key_is_no_access_token_nor_does_it_become_one_by_another_prefix(random: bytes) -> None:
    key, token = mint(KEY_PREFIX, random), mint(TOKEN_PREFIX, random)
    assert not is_well_formed(TOKEN_PREFIX, key)
    assert not is_well_formed(KEY_PREFIX, token)
    assert not is_well_formed(TOKEN_PREFIX, TOKEN_PREFIX + key.removeprefix(KEY_PREFIX))
    assert digest_of(key) != digest_of(token)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("text", ["", "gw-sk-", "gw-sk-" + "0" * 49, "sk-" + "0" * 49, "gw-sk-" + "é" * 49, "gw-at-x"])
def test_what_is_no_secret_is_recognised(prefix: str, text: str) -> None:
    assert not is_well_formed(prefix, text)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_line_end_after_a_secret_is_not_part_of_it(prefix: str) -> None:
    assert not is_well_formed(prefix, mint(prefix, bytes(32)) + "\n")


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        mint(KEY_PREFIX, b"short")


def test_a_secret_is_shown_by_its_kind_and_its_last_four_characters() -> None:
    assert masked(TOKEN_PREFIX, "7f2a") == "gw-at-****7f2a"
