"""What is shown is exact: amounts to their last decimal, days of the billing zone; and the guide is the project's own."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from e2e.conftest import Gateway
from playwright.async_api import Browser, expect

from console.conftest import Visitor, visit
from keytoll.demo.stack import PROJECT
from keytoll.http.pages import CONSOLE


@pytest.fixture(scope="module", params=["en-GB"])
async def reader(request: pytest.FixtureRequest, gateway: Gateway, browser: Browser) -> AsyncIterator[Visitor]:
    """Somebody who writes numbers as that language does, signed in or not."""
    async with visit(gateway, browser, "nobody", locale=request.param) as visitor:
        await visitor.page.goto(visitor.url)
        yield visitor


async def _called(reader: Visitor, call: str) -> Any:
    """What a function of a module gives: `amounts.money("1", "CNY")`."""
    module, _ = call.split(".", 1)
    return await reader.page.evaluate(f"import('/console/app/{module}.js').then(({module}) => {call})")


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("amounts.money('8999999999.123456789', 'CNY')", "¥8,999,999,999.123456789"),
        ("amounts.money('0.000172', 'CNY')", "¥0.000172"),
        ("amounts.money('45.50', 'CNY')", "¥45.50"),
        ("amounts.money('-0.000000000000004', 'CNY')", "-¥0.000000000000004"),
        ("amounts.sum(['9007199254740993.10', '0.000000001', '-0.10'])", "9007199254740993.000000001"),
        ("amounts.sum([])", "0.00"),
        ("amounts.share('0.00', '0.00')", 1),
        ("amounts.share('45.50', '100.00')", 0.455),
        ("amounts.amountProblem('9000000000.000000001')", None),
        ("times.startOf('2026-11-01', 'Asia/Shanghai')", "2026-10-31T16:00:00Z"),
        ("times.endOf('2026-12-31', 'Asia/Shanghai')", "2026-12-31T16:00:00Z"),
        ("times.startOf('2026-03-29', 'Europe/Berlin')", "2026-03-28T23:00:00Z"),
        ("times.endOf('2026-03-29', 'Europe/Berlin')", "2026-03-29T22:00:00Z"),
        ("times.endOf('2026-10-25', 'America/New_York')", "2026-10-26T04:00:00Z"),
        ("times.lastDay('2026-12-31T16:00:00Z', 'Asia/Shanghai')", "2026-12-31"),
        ("times.monthStart('2026-01-31', -1)", "2025-12-01"),
        ("times.daysBetween('2024-02-28', '2024-03-01')", ["2024-02-28", "2024-02-29", "2024-03-01"]),
    ],
)
async def test_amounts_and_days_are_exact(reader: Visitor, call: str, result: Any) -> None:
    assert await _called(reader, call) == result


@pytest.mark.parametrize("reader", ["de-DE"], indirect=True)
async def test_amounts_are_written_as_the_reader_writes_them(reader: Visitor) -> None:
    assert await _called(reader, "amounts.money('1234.5', 'EUR')") == "1.234,50\u00a0€"


async def test_a_last_day_is_the_billing_zones(gateway: Gateway, visitor: Visitor) -> None:
    """Asked for in the console in Berlin, it ends at midnight in Shanghai, and is shown as the same day again."""
    page = visitor.page
    await page.get_by_role("button", name="New API Key").click()
    await page.get_by_role("textbox", name="Name").fill("new year")
    await page.get_by_label("On a date").check()
    await page.get_by_label("Last day").fill("2098-12-31")
    await page.get_by_role("button", name="Create").click()
    await page.get_by_role("button", name="I have saved it").click()
    await expect(visitor.row("new year")).to_contain_text("31 Dec 2098")
    async with gateway.stack.operator() as operator:
        (key,) = (await operator.get(f"/api/v1/users/{visitor.name}/keys")).json()["data"]
    assert key["expires_at"] == "2098-12-31T16:00:00Z"


async def test_help_is_the_owners_guide(visitor: Visitor) -> None:
    guide = (CONSOLE / "owners-guide.md").read_text()
    assert (PROJECT / "docs" / "owners-guide.md").read_text() == guide
    await visitor.open("help", "Help")
    shown = await visitor.page.locator(".guide").inner_text()
    for line in guide.splitlines():
        if line.startswith(("## ", "### ")):
            assert line.lstrip("# ").replace("*", "") in shown
    assert "```" not in shown
    assert "**" not in shown.replace("****", "")


def test_pages_hold_no_script_or_style_of_their_own() -> None:
    """The policy would refuse them, and nothing is loaded from anywhere else."""
    page = (CONSOLE / "index.html").read_text()
    assert "style=" not in page
    assert "<style" not in page
    assert page.count("<script") == page.count('<script type="module" src="/console/')
    for path in CONSOLE.rglob("app/*.js"):
        assert "innerHTML" not in path.read_text()
        assert 'style="' not in path.read_text()
