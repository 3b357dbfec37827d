"""Owners: how people and organizations are named, and what is shown of an access token."""

import pytest

from keytoll.core.errors import InvalidValue
from keytoll.core.owners import AccessToken, Organization, User, check_owner, check_owner_name, split_owner


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


@pytest.mark.parametrize("name", ["alice", "a", "a.b_c-d", "A1", "a" * 64])
def test_a_name_is_what_an_owner_may_be_called(name: str) -> None:
    assert check_owner_name(name) == name
    assert split_owner(check_owner(User(name, 0).owner)) == ("users", name)
    assert split_owner(check_owner(Organization(name, 0).owner)) == ("organizations", name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "a/b", "é", "a b", "a\n", "a" * 65, "users/a"])
def test_other_names_are_refused_and_the_field_is_named(name: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        check_owner_name(name, field="admin")
    assert raised.value.field == "admin"


def test_a_token_shows_its_last_four_characters_and_never_its_digest() -> None:
    token = AccessToken(b"secret digest", "7f2a", 0)
    assert token.masked == "gw-at-****7f2a"
    assert "digest" not in repr(User("alice", 0, token))
