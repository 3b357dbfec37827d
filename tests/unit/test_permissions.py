"""Who may do what: each role and each verb, at the own owner and at others'."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.permissions import (
    Actor,
    Forbidden,
    Hidden,
    Operator,
    Person,
    Role,
    Verb,
    Who,
    check,
    check_operator,
    may,
    visible,
)

ALICE = Person("alice", {"run-by-alice": Role.ADMIN, "looked-at": Role.MEMBER})
OWN, RUN, LOOKED_AT = "users/alice", "organizations/run-by-alice", "organizations/looked-at"
FOREIGN = ("users/bob", "users/run-by-alice", "organizations/alice", "organizations/acme", "users/", "alice", "")

_YES, _NO, _GONE = None, Forbidden, Hidden
_EXPECTED = {
    # verb: (the own, as an admin, as a member)
    Verb.LOOK: (_YES, _YES, _YES),
    Verb.MANAGE_KEYS: (_YES, _YES, _NO),
    Verb.MANAGE_MEMBERS: (_NO, _YES, _NO),
    Verb.MANAGE_TOKEN: (_YES, _NO, _NO),
    Verb.AUDIT: (_YES, _YES, _NO),
    Verb.OPERATE: (_NO, _NO, _NO),
}

_names = st.sampled_from(["alice", "bob", "acme", "x"])
_people = st.builds(Person, _names, st.dictionaries(_names, st.sampled_from(Role)))
_owners = st.builds("{}/{}".format, st.sampled_from(["users", "organizations", "groups"]), _names)
_verbs = st.sampled_from(Verb)


def _refusal(who: Who, verb: Verb, owner: str) -> type[Exception] | None:
    try:
        check(who, verb, owner)
    except (Hidden, Forbidden) as refusal:
        return type(refusal)
    return None


def test_the_table_is_told_for_every_verb() -> None:
    assert _EXPECTED.keys() == set(Verb)


@pytest.mark.parametrize("verb", Verb)
def test_a_person_may_what_the_table_says(verb: Verb) -> None:
    assert tuple(_refusal(ALICE, verb, owner) for owner in (OWN, RUN, LOOKED_AT)) == _EXPECTED[verb]


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("owner", FOREIGN)
def test_what_is_foreign_is_as_if_it_were_not_there(verb: Verb, owner: str) -> None:
    assert _refusal(ALICE, verb, owner) is Hidden


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("owner", [OWN, RUN, LOOKED_AT, *FOREIGN])
def test_an_operator_may_everything(verb: Verb, owner: str) -> None:
    assert _refusal(Operator(), verb, owner) is None


def test_only_an_operator_is_one() -> None:
    check_operator(Operator())
    with pytest.raises(Forbidden):
        check_operator(Person("operator", {"operator": Role.ADMIN}))


@given(_people, _verbs, _owners)
def test_nobody_may_do_anything_where_they_may_not_look(person: Person, verb: Verb, owner: str) -> None:
    if not may(person, Verb.LOOK, owner):
        assert _refusal(person, verb, owner) is Hidden
    assert (_refusal(person, verb, owner) is None) == may(person, verb, owner)


@given(_people, _verbs, _owners)
def test_an_admin_may_what_a_member_may(person: Person, verb: Verb, owner: str) -> None:
    promoted = Person(person.name, dict.fromkeys(person.roles, Role.ADMIN))
    assert may(promoted, verb, owner) or not may(person, verb, owner)


@given(_people, _verbs, _owners)
def test_roles_elsewhere_change_nothing(person: Person, verb: Verb, owner: str) -> None:
    kind, _, name = owner.partition("/")
    there = {name: person.roles[name]} if kind == "organizations" and name in person.roles else {}
    assert _refusal(person, verb, owner) == _refusal(Person(person.name, there), verb, owner)


@given(_people, _verbs, _owners)
def test_what_is_visible_for_a_verb_is_where_it_may_be_done(person: Person, verb: Verb, owner: str) -> None:
    found = visible(person, verb)
    assert (owner in found) == may(person, verb, owner)
    assert len(found) == len(set(found))


def test_an_actor_is_recorded_by_name() -> None:
    assert Actor(Operator(), "operator.sock").name == "operator"
    assert Actor(ALICE, "::1").name == "users/alice"
