"""Charges as CSV: the same as in JSON, page after page, and nothing that a spreadsheet would compute."""

import csv
import io
from typing import Any

import httpx
import pytest
from serving import Operated

PATH = "/api/v1/users/alice/charges"


async def new_key(keytoll: Operated, name: str) -> dict[str, str]:
    key: dict[str, str] = (await keytoll.http.post("/api/v1/users/alice/keys", json={"name": name})).json()
    return key


def rows(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def as_cells(charge: dict[str, Any]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in charge.items()}


@pytest.mark.parametrize(
    ("query", "accept", "as_csv"),
    [
        ("", "text/csv", True),
        ("", "text/csv, */*;q=0.1", True),
        ("", "text/csv, application/json", False),
        ("", "*/*", False),
        ("?format=csv", "application/json", True),
        ("?format=json", "text/csv", False),
    ],
)
async def test_who_asks_for_csv_gets_it(keytoll: Operated, query: str, accept: str, as_csv: bool) -> None:
    await keytoll.charge(await new_key(keytoll, "a"))
    answer = await keytoll.http.get(PATH + query, headers={"accept": accept})
    assert answer.headers["content-type"].startswith("text/csv") is as_csv


async def test_it_tells_what_json_tells(keytoll: Operated) -> None:
    await keytoll.charge(await new_key(keytoll, 'two, "quoted" 生产'), output=20)
    charges = (await keytoll.http.get(PATH)).json()["data"]
    answer = await keytoll.http.get(PATH, params={"format": "csv"})
    assert rows(answer) == [as_cells(charge) for charge in charges]
    assert answer.headers["content-disposition"] == 'attachment; filename="charges.csv"'
    assert "link" not in answer.headers


async def test_its_pages_lead_to_each_other_by_the_same_query(keytoll: Operated) -> None:
    key = await new_key(keytoll, "a")
    for seconds in range(5):
        await keytoll.charge(key, seconds=seconds)
    model = "Qwen2.5-72B-Instruct"
    answer = await keytoll.http.get(PATH, params={"format": "csv", "limit": 2, "model": model})
    found = rows(answer)
    while "link" in answer.headers:
        following = answer.links["next"]["url"]
        assert httpx.URL(following).params["model"] == model
        answer = await keytoll.http.get(following)
        found += rows(answer)
    charges = (await keytoll.http.get(PATH)).json()["data"]
    assert [row["id"] for row in found] == [charge["id"] for charge in charges]
    assert len(found) == 5


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@SUM(A1)", "＝1+1", "＋1", "－1", "＠SUM(A1)", "=cmd|' /C calc'!A0"]
)
async def test_a_name_is_no_formula(keytoll: Operated, name: str) -> None:
    await keytoll.charge(await new_key(keytoll, name))
    (row,) = rows(await keytoll.http.get(PATH, params={"format": "csv"}))
    assert row["key_name"] == f"'{name}"
    assert (await keytoll.http.get(PATH)).json()["data"][0]["key_name"] == name
