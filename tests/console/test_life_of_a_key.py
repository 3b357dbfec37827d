"""The whole life of a key, as its owner sees it in the console, and its callers at the gateway."""

import re
from typing import Any

import openai
import pytest
from e2e.conftest import CHAT, Gateway, until
from playwright.async_api import Browser, Route, expect

from console.conftest import Visitor, new_organization, new_user, visit

ASK: list[Any] = [{"role": "user", "content": "Hello, Keytoll!"}]
COST = "0.000172"
"""4 tokens at 4.00 and 13 at 12.00 for a million."""


@pytest.mark.parametrize("owned_by", ["account", "organization"])
async def test_a_key_is_made_used_edited_and_deleted(gateway: Gateway, browser: Browser, owned_by: str) -> None:
    name, token = await new_user(gateway)
    path = f"organizations/{await new_organization(gateway, admin=name)}" if owned_by == "organization" else "account"
    async with visit(gateway, browser, name) as visitor:
        await visitor.sign_in(token)
        await visitor.open(f"{path}/keys", "API Keys")
        await expect(visitor.page.get_by_role("heading", name="No keys yet")).to_be_visible()
        secret = await _made(visitor, "production", monthly="100")
        async with gateway.sdk({"secret": secret}) as client:
            await client.chat.completions.create(model=CHAT, messages=ASK)
            await _sees_the_spend(visitor, path)
            await _raises_the_quota(visitor)
            await _deletes(visitor)
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model=CHAT, messages=ASK)


async def _made(visitor: Visitor, name: str, *, monthly: str) -> str:
    """Make a key, copy it, and return what is in the clipboard."""
    page = visitor.page
    await page.get_by_role("button", name="New API Key").click()
    dialog = page.get_by_role("dialog", name="New API key")
    await dialog.get_by_role("textbox", name="Name").fill(name)
    await dialog.get_by_label("Monthly quota").check()
    await dialog.get_by_label("Limit in CNY").fill(monthly)
    await dialog.get_by_role("button", name="Create").click()
    shown = page.get_by_role("dialog", name="Your new API key")
    await shown.get_by_role("button", name="Copy API key").click()
    await expect(shown.get_by_role("button", name="Copy API key")).to_have_text("Copied")
    secret = await visitor.clipboard()
    assert re.fullmatch(r"gw-sk-[0-9A-Za-z]{49}", secret)
    await expect(shown).to_contain_text(f"curl {visitor.gateway.stack.base_url}/chat/completions")
    await page.keyboard.press("Escape")  # doesn't close what can't be shown again
    await shown.get_by_role("button", name="I have saved it").click()
    await expect(visitor.row(name)).to_contain_text(f"gw-sk-****{secret[-4:]}")
    assert secret not in await page.content()
    return secret


async def _sees_the_spend(visitor: Visitor, path: str) -> None:
    page = visitor.page

    async def spent() -> bool:
        await page.reload()
        await expect(visitor.row("production")).to_be_visible()
        return COST in await visitor.row("production").inner_text()

    await until(spent)
    await expect(visitor.row("production")).to_contain_text(f"¥{COST} / ¥100.00")
    await visitor.open(f"{path}/usage", "Usage")
    await expect(page.locator(".sums")).to_contain_text(f"¥{COST}")
    await expect(page.get_by_role("img", name="Spending for each day")).to_be_visible()
    await page.get_by_label("Show as").select_option("table")
    await expect(page.get_by_role("table", name="Spending by day").get_by_role("row")).to_have_count(2)
    await _explains(visitor, path)


async def _explains(visitor: Visitor, path: str) -> None:
    page = visitor.page
    await visitor.open(f"{path}/charges", "Charges")
    await visitor.row("production").get_by_role("button", name="Explain").click()
    dialog = page.get_by_role("dialog", name="How this charge comes about")
    await expect(dialog.get_by_role("row", name="Output")).to_have_text(re.compile(r"13.*¥12\.00.*¥0\.000156"))
    await expect(dialog.get_by_role("row", name="Charged")).to_contain_text(f"¥{COST}")
    await page.keyboard.press("Escape")
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Download CSV").click()
    text = (await (await download.value).path()).read_text()
    assert text.count("production") == 1
    assert COST in text
    await visitor.open(f"{path}/keys", "API Keys")


async def _raises_the_quota(visitor: Visitor) -> None:
    page = visitor.page
    await page.get_by_role("button", name="Edit production").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Limit in CNY").fill("250.5")
    await dialog.get_by_role("button", name="Review changes").click()
    await expect(dialog).to_contain_text("From now on a limit of ¥250.50 applies to each calendar month")
    await expect(visitor.page.locator("tbody").first).to_contain_text("/ ¥100.00")  # nothing is changed yet
    await dialog.get_by_role("button", name="Apply changes").click()
    await expect(visitor.row("production")).to_contain_text("/ ¥250.50")


async def _deletes(visitor: Visitor) -> None:
    page = visitor.page
    await page.get_by_role("button", name="Delete production").click()
    dialog = page.get_by_role("dialog", name="Delete this key?")
    await expect(dialog).to_contain_text("Requests that are already running finish and are charged")
    await dialog.get_by_role("button", name="Delete key").click()
    await expect(page.get_by_role("heading", name="No keys yet")).to_be_visible()


async def test_a_key_can_be_rotated_disabled_and_enabled(visitor: Visitor) -> None:
    page = visitor.page
    old = await visitor.gateway.new_key(f"users/{visitor.name}", name="batch")
    await visitor.open("account/keys", "API Keys")
    await page.reload()
    await page.get_by_role("button", name="Rotate batch").click()
    await page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
    await page.get_by_role("dialog").get_by_role("button", name="Copy API key").click()
    new = {"secret": await visitor.clipboard()}
    await page.get_by_role("button", name="I have saved it").click()
    for key in (old, new):
        assert await _status(visitor.gateway, key) == 200
    await page.get_by_role("button", name="Disable batch").click()
    await page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    await expect(visitor.row("batch")).to_contain_text("Disabled")
    assert await _status(visitor.gateway, new) == 401
    await page.get_by_role("button", name="Enable batch").click()
    await expect(page.get_by_role("button", name="Disable batch")).to_be_visible()
    assert await _status(visitor.gateway, new) == 200


async def _status(gateway: Gateway, key: dict[str, Any]) -> int:
    async with gateway.http(key) as client:
        return (await client.get("/v1/key")).status_code


async def test_a_key_can_be_made_with_the_keyboard_alone(visitor: Visitor) -> None:
    """The focus goes into the dialog, and comes back to the button that opened it."""
    page, keyboard = visitor.page, visitor.page.keyboard
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await keyboard.press("Enter")
    await keyboard.press("Tab")
    await expect(page.get_by_role("button", name="New API Key")).to_be_focused()
    await keyboard.press("Enter")
    await expect(page.get_by_role("textbox", name="Name")).to_be_focused()
    await keyboard.type("by keyboard")
    await keyboard.press("Tab")
    await keyboard.press("ArrowRight")  # from Unlimited to Monthly
    await keyboard.press("Tab")
    await expect(page.get_by_label("Limit in CNY")).to_be_focused()
    await keyboard.type("12.5")
    await keyboard.press("Enter")
    await expect(page.get_by_role("dialog", name="Your new API key")).to_be_visible()
    button = page.get_by_role("button", name="Copy API key")
    while not await button.evaluate("(element) => element === document.activeElement"):
        await keyboard.press("Tab")
    await keyboard.press("Enter")
    assert (await visitor.clipboard()).startswith("gw-sk-")
    done = page.get_by_role("button", name="I have saved it")
    while not await done.evaluate("(element) => element === document.activeElement"):
        await keyboard.press("Tab")
    await keyboard.press("Enter")
    await expect(visitor.row("by keyboard")).to_contain_text("¥0.00 / ¥12.50")
    await expect(page.get_by_role("button", name="New API Key")).to_be_focused()


async def test_what_is_wrong_with_a_new_key_is_told_beside_its_field(gateway: Gateway, browser: Browser) -> None:
    name, token = await new_user(gateway)
    await gateway.new_key(f"users/{name}", name="taken")
    async with visit(gateway, browser, name, forgive=("409", "400")) as visitor:
        await visitor.sign_in(token)
        page = visitor.page
        await page.get_by_role("button", name="New API Key").click()
        dialog = page.get_by_role("dialog")
        name_field = dialog.get_by_role("textbox", name="Name")
        await dialog.get_by_role("button", name="Create").click()
        await expect(name_field).to_have_accessible_description(re.compile("Enter a name"))
        await name_field.fill("taken")
        await dialog.get_by_role("button", name="Create").click()
        await expect(name_field).to_have_accessible_description(re.compile("has another key of this name"))
        await name_field.fill("free")
        await dialog.get_by_text("More: models and networks").click()
        await dialog.get_by_label("Networks").fill("10.0.0.0/99")
        await dialog.get_by_role("button", name="Create").click()
        await expect(dialog.get_by_label("Networks")).to_have_attribute("aria-invalid", "true")
        await dialog.get_by_label("Networks").fill("10.0.0.0/8, 127.0.0.1")
        await dialog.get_by_label("Models").fill("bge-m3")
        await dialog.get_by_role("button", name="Create").click()
        await page.get_by_role("button", name="I have saved it").click()
        await expect(visitor.row("free")).to_contain_text("only bge-m3")


async def test_a_deletion_that_a_replica_has_not_confirmed_says_so(visitor: Visitor) -> None:
    async def not_yet(route: Route) -> None:
        if route.request.method == "DELETE":
            body = {"not_yet": [{"replica": "keytoll-2", "until": "2026-11-27T12:00:03Z"}]}
            await route.fulfill(status=202, json=body)
        else:
            await route.fallback()

    await _made(visitor, "production", monthly="100")
    await visitor.page.route("**/api/v1/keys/*", not_yet)
    await visitor.row("production").get_by_role("button", name="Delete production").click()
    dialog = visitor.page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Delete key").click()
    said = visitor.page.get_by_role("status").filter(has_text="not confirmed by keytoll-2")
    await expect(said).to_contain_text("until 13:00:03 at most")
