"""Each page: whoever can't use a mouse, or sees little, or has a phone can use it, and nothing breaks the strict policy."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from e2e.conftest import CHAT, Gateway
from playwright.async_api import Browser, expect

from console.conftest import Visitor, new_organization, new_user, visit

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 860}
OWN_PAGES = {
    "keys": "API Keys",
    "usage": "Usage",
    "usage?view=table&by=model": "Usage",
    "charges": "Charges",
    "access-token": "Access Token",
    "audit": "Audit Log",
}
ORGANIZATION_PAGES = {
    "keys": "API Keys",
    "usage": "Usage",
    "charges": "Charges",
    "members": "Members",
    "audit": "Audit Log",
}


@pytest.fixture(scope="module")
async def owner(gateway: Gateway) -> dict[str, str]:
    """Somebody who has keys of every kind, and charges, and an organization with another member."""
    name, token = await new_user(gateway)
    other, _ = await new_user(gateway)
    organization = await new_organization(gateway, admin=name, members=(other,))
    for owned_by in (f"users/{name}", f"organizations/{organization}"):
        key = await gateway.new_key(owned_by, name="España 生产 🚀", quota={"kind": "monthly", "limit": "100"})
        spent = await gateway.new_key(owned_by, name="spent", quota={"kind": "total", "limit": "0.000001"})
        await gateway.new_key(
            owned_by, name="off", disabled=True, allowed_models=[CHAT], allowed_networks=["10.0.0.0/8"]
        )
        await gateway.new_key(owned_by, name="until", expires_at="2099-12-31T16:00:00Z")
        for each in (key, spent):
            async with gateway.sdk(each) as client:
                await client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "Hello"}])
            await gateway.charge(each)
    return {"name": name, "token": token, "organization": organization}


@pytest.fixture(params=["light", "dark"])
async def signed_in(
    request: pytest.FixtureRequest, gateway: Gateway, browser: Browser, owner: dict[str, str]
) -> AsyncIterator[Visitor]:
    options: dict[str, Any] = {"color_scheme": request.param, "viewport": DESKTOP}
    async with visit(gateway, browser, owner["name"], **options) as visitor:
        await visitor.sign_in(owner["token"])
        yield visitor


async def test_axe_finds_nothing_serious_on_any_page(signed_in: Visitor, owner: dict[str, str]) -> None:
    pages = {f"account/{path}": heading for path, heading in OWN_PAGES.items()}
    pages |= {f"organizations/{owner['organization']}/{path}": heading for path, heading in ORGANIZATION_PAGES.items()}
    for path, heading in {**pages, "help": "Help"}.items():
        await signed_in.open(path, heading)
        assert (path, await signed_in.grave_faults()) == (path, [])


async def test_axe_finds_nothing_serious_in_any_dialog(signed_in: Visitor) -> None:
    await signed_in.open("account/keys", "API Keys")
    page = signed_in.page
    for button in ("New API Key", "Edit until", "Rotate until", "Disable until", "Delete until"):
        await page.get_by_role("button", name=button).click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert (button, await signed_in.grave_faults()) == (button, [])
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("button", name=button)).to_be_focused()
    await signed_in.open("account/charges", "Charges")
    await page.get_by_role("button", name=re.compile("Explain")).first.click()
    await expect(page.get_by_role("row", name="Exact sum")).to_be_visible()
    assert await signed_in.grave_faults() == []


async def test_axe_finds_nothing_serious_at_the_sign_in(signed_in: Visitor) -> None:
    await signed_in.page.get_by_role("button", name="Sign out").click()
    await expect(signed_in.page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert await signed_in.grave_faults() == []


async def test_no_page_is_wider_than_a_phone(gateway: Gateway, browser: Browser, owner: dict[str, str]) -> None:
    async with visit(gateway, browser, owner["name"], viewport=PHONE, has_touch=True) as visitor:
        await visitor.sign_in(owner["token"])
        for path, heading in {**{f"account/{path}": name for path, name in OWN_PAGES.items()}, "help": "Help"}.items():
            await visitor.open(path, heading)
            width = await visitor.page.evaluate("document.documentElement.scrollWidth")
            assert (path, width) == (path, PHONE["width"])
        assert await visitor.grave_faults() == []
        await visitor.page.get_by_role("button", name="Menu").click()
        await visitor.page.get_by_role("dialog", name="Menu").get_by_role("link", name="Access Token").click()
        await expect(visitor.page.get_by_role("heading", level=1, name="Access Token")).to_be_focused()


async def test_light_and_dark_can_be_chosen_and_are_kept(signed_in: Visitor) -> None:
    page = signed_in.page
    await page.get_by_role("button", name="Colours: system").click()
    await page.get_by_role("button", name="Colours: light").click()
    await page.reload()
    await expect(page.get_by_role("button", name="Colours: dark")).to_be_visible()
    background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(17, 22, 20)"


async def test_the_list_of_keys_is_filtered_sorted_and_paged(gateway: Gateway, visitor: Visitor) -> None:
    for number in range(27):
        await gateway.new_key(f"users/{visitor.name}", name=f"key {number:02}", disabled=number == 3)
    await visitor.open("account/usage", "Usage")
    await visitor.open("account/keys?sort=name", "API Keys")
    page, rows = visitor.page, visitor.page.locator("tbody tr")
    await expect(rows).to_have_count(25)
    await expect(rows.first).to_contain_text("key 00")
    await page.get_by_role("button", name="Next").click()
    await expect(rows).to_have_count(2)
    await expect(rows.last).to_contain_text("key 26")
    await page.get_by_role("button", name="Previous").click()
    await expect(rows).to_have_count(25)
    await page.get_by_label("Status").select_option("disabled")
    await expect(rows).to_have_count(1)
    await page.get_by_label("Status").select_option("")
    await page.get_by_role("searchbox").fill("KEY 1")
    await expect(rows).to_have_count(10)
    await page.reload()  # what was searched for is in the address
    await expect(rows).to_have_count(10)
    await page.get_by_role("searchbox").fill("nowhere")
    await expect(page.get_by_role("heading", name="No key fits")).to_be_visible()
