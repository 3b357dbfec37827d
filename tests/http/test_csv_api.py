"""Charges as CSV: the same rows as in JSON, page by page, and nothing in them that a spreadsheet would compute."""

import csv
import io
from typing import Any

import pytest
from serving import Operated

ALICE = "/api/v1/users/alice"


async def key_named(keytoll: Operated, name: str) -> dict[str, Any]:
    answer = await keytoll.http.post(f"{ALICE}/keys", json={"name": name})
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


async def test_a_page_of_csv_holds_what_a_page_of_json_does(keytoll: Operated) -> None:
    await keytoll.charge(await key_named(keytoll, 'a, "b"\u00fc'), output=7)
    answer = await keytoll.http.get(f"{ALICE}/charges?format=csv")
    (charge,) = (await keytoll.http.get(f"{ALICE}/charges")).json()["data"]
    (row,) = rows_of(answer.text)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    assert row == {name: "" if value is None else str(value) for name, value in charge.items()}
    assert row["key_name"] == 'a, "b"\u00fc'


async def test_the_pages_are_linked_and_hold_every_charge_once(keytoll: Operated) -> None:
    key = await key_named(keytoll, "a")
    charges = [await keytoll.charge(key, seconds=number) for number in range(5)]
    path, found = f"{ALICE}/charges?key_id={key['id']}&limit=2&format=csv", []
    for last in (False, False, True):
        answer = await keytoll.http.get(path)
        found += [row["id"] for row in rows_of(answer.text)]
        assert ("next" not in answer.links) is last
        path = path if last else answer.links["next"]["url"]
    assert found == [charge.id for charge in reversed(charges)]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "=cmd|' /C calc'!A0"])
async def test_no_name_is_a_formula(keytoll: Operated, name: str) -> None:
    await keytoll.charge(await key_named(keytoll, name))
    (row,) = rows_of((await keytoll.http.get(f"{ALICE}/charges?format=csv")).text)
    assert row["key_name"] == f"'{name}"


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        ("text/csv", "", "text/csv; charset=utf-8"),
        ("text/csv", "?format=json", "application/json"),
        ("application/json", "?format=csv", "text/csv; charset=utf-8"),
        ("*/*", "", "application/json"),
        ("application/json, text/csv", "", "application/json"),
    ],
)
async def test_the_form_is_chosen_by_accept_or_before_that_by_the_query(
    keytoll: Operated, accept: str, query: str, kind: str
) -> None:
    await key_named(keytoll, "a")
    for path in (f"{ALICE}/charges{query}", f"/api/v1/charges{query}"):
        assert (await keytoll.http.get(path, headers={"accept": accept})).headers["content-type"] == kind
