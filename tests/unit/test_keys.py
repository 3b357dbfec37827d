"""Keys: names, and what is shown of them; ids."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.errors import InvalidValue
from keytoll.core.ids import uuid7
from keytoll.core.keys import Key, check_name
from keytoll.core.quota import Quota


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


@given(st.integers(0, 2**48 * 1000 - 1), st.binary(min_size=10, max_size=10))
def test_ids_are_uuids_of_version_7_that_sort_by_time(at_us: int, random: bytes) -> None:
    made = uuid7(at_us, random)
    assert made.version == 7
    assert made.variant == UUID(int=0x8000 << 48 | 0).variant or made.variant == "specified in RFC 4122"
    assert made.int >> 80 == at_us // 1000
    with pytest.raises(ValueError, match="10"):
        uuid7(at_us, b"")
