"""Who signs in, who sees what of an organization, and access tokens."""

import re

from e2e.conftest import Gateway
from playwright.async_api import Browser, expect

from console.conftest import Visitor, new_organization, new_user, operate, visit


async def test_a_wrong_token_and_an_api_key_are_refused_with_a_reason(gateway: Gateway, browser: Browser) -> None:
    key = await gateway.new_key()
    async with visit(gateway, browser, "nobody", forgive=("401",)) as visitor:
        page = visitor.page
        await page.goto(visitor.url)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_text("Enter your access token.")).to_be_visible()
        await page.get_by_label("Access token").fill(key["secret"])
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_text("This is an API key.")).to_be_visible()
        await page.get_by_label("Access token").fill("gw-at-" + "x" * 49)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_contain_text("does not exist")


async def test_no_script_can_read_the_token(visitor: Visitor) -> None:
    (cookie,) = await visitor.context.cookies()
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    assert await visitor.page.evaluate("document.cookie") == ""
    assert "gw-at-" not in await visitor.page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")


async def test_a_session_ends_when_the_token_is_reset_elsewhere(gateway: Gateway, browser: Browser) -> None:
    """And after the next sign-in the same page is there again."""
    name, token = await new_user(gateway)
    async with visit(gateway, browser, name, forgive=("401",)) as visitor:
        await visitor.sign_in(token)
        await visitor.open("account/charges", "Charges")
        token = (await operate(gateway, "POST", f"/users/{name}/access-token/reset"))["secret"]
        await visitor.page.get_by_label("Key").select_option("")
        await visitor.page.get_by_label("Model").fill("another")
        await visitor.page.keyboard.press("Enter")
        await expect(visitor.page.get_by_text("Your session has ended.")).to_be_visible()
        await visitor.page.get_by_label("Access token").fill(token)
        await visitor.page.get_by_role("button", name="Sign in").click()
        await expect(visitor.page.get_by_role("heading", level=1, name="Charges")).to_be_visible()


async def test_a_member_looks_but_finds_nothing_to_change(gateway: Gateway, browser: Browser) -> None:
    admin, _ = await new_user(gateway)
    name, token = await new_user(gateway)
    organization = await new_organization(gateway, admin=admin, members=(name,))
    await gateway.new_key(f"organizations/{organization}", name="shared")
    async with visit(gateway, browser, name) as visitor:
        await visitor.sign_in(token)
        await visitor.open(f"organizations/{organization}/keys", "API Keys")
        await expect(visitor.row("shared")).to_contain_text("gw-sk-****")
        main = visitor.page.get_by_role("main")
        await expect(main.get_by_role("button")).to_have_count(0)
        await expect(main.get_by_role("columnheader", name="Actions")).to_have_count(0)
        menu = visitor.page.get_by_role("region", name=f"Organization {organization}")
        await expect(menu.get_by_role("link")).to_have_text(["API Keys", "Usage", "Charges", "Members"])
        await visitor.open(f"organizations/{organization}/members", "Members")
        await expect(main.get_by_role("button")).to_have_text(["Leave"])
        await main.get_by_role("button", name="Leave").click()
        await visitor.page.get_by_role("dialog").get_by_role("button", name="Leave").click()
        await expect(visitor.page.get_by_role("heading", level=1, name="API Keys")).to_be_visible()
        await expect(menu).to_have_count(0)


async def test_who_loses_a_role_loses_what_it_showed(gateway: Gateway, browser: Browser) -> None:
    """The refusal that tells of it also brings the menu up to date."""
    admin, _ = await new_user(gateway)
    name, token = await new_user(gateway)
    organization = await new_organization(gateway, admin=admin, members=(name,))
    await operate(gateway, "PUT", f"/organizations/{organization}/members/{name}", {"role": "admin"})
    async with visit(gateway, browser, name, forgive=("403", "404")) as visitor:
        await visitor.sign_in(token)
        await visitor.open(f"organizations/{organization}/keys", "API Keys")
        await visitor.page.get_by_role("button", name="New API Key").click()
        await operate(gateway, "PUT", f"/organizations/{organization}/members/{name}", {"role": "member"})
        await visitor.page.get_by_role("textbox", name="Name").fill("too late")
        await visitor.page.get_by_role("button", name="Create").click()
        await expect(visitor.page.get_by_role("button", name="New API Key")).to_have_count(0)
        await expect(visitor.page.get_by_role("dialog").get_by_role("alert")).not_to_be_empty()
        await visitor.page.keyboard.press("Escape")
        await operate(gateway, "DELETE", f"/organizations/{organization}")
        await visitor.page.get_by_role("searchbox").fill("anything")
        menu = visitor.page.get_by_role("region", name=f"Organization {organization}")
        await expect(menu).to_have_count(0)


async def test_an_admin_adds_promotes_and_removes_members(gateway: Gateway, browser: Browser) -> None:
    name, token = await new_user(gateway)
    other, _ = await new_user(gateway)
    organization = await new_organization(gateway, admin=name)
    async with visit(gateway, browser, name, forgive=("404", "409")) as visitor:
        await visitor.sign_in(token)
        await visitor.open(f"organizations/{organization}/members", "Members")
        page = visitor.page
        await page.get_by_role("button", name="Add member").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("User name").fill("nobody-at-all")
        await dialog.get_by_role("button", name="Add").click()
        await expect(dialog.get_by_role("alert")).not_to_be_empty()
        await dialog.get_by_label("User name").fill(other)
        await dialog.get_by_role("button", name="Add").click()
        await expect(visitor.row(other)).to_contain_text("Member")
        await page.get_by_role("button", name=f"Change the role of {other}").click()
        await dialog.get_by_label("Admin").check()
        await dialog.get_by_role("button", name="Change role").click()
        await expect(visitor.row(other)).to_contain_text("Admin")
        await page.get_by_role("button", name=f"Remove {other}").click()
        await dialog.get_by_role("button", name="Remove").click()
        await expect(visitor.row(other)).to_have_count(0)
        await page.get_by_role("button", name="Leave").click()
        await dialog.get_by_role("button", name="Leave").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("without an admin")
        await page.keyboard.press("Escape")
        await visitor.open(f"organizations/{organization}/audit", "Audit Log")
        await expect(page.get_by_role("row").filter(has_text="Member removed")).to_contain_text("127.0.0.1")


async def test_several_organizations_can_be_switched(gateway: Gateway, browser: Browser) -> None:
    name, token = await new_user(gateway)
    first, second = [await new_organization(gateway, admin=name) for _ in range(2)]
    async with visit(gateway, browser, name) as visitor:
        await visitor.sign_in(token)
        await visitor.open(f"organizations/{first}/members", "Members")
        await visitor.page.get_by_label("Organization", exact=True).select_option(second)
        await expect(visitor.page.get_by_text(f"Organization · {second}")).to_be_visible()
        assert visitor.page.url.endswith(f"#/organizations/{second}/members")


async def test_the_access_token_is_reset_shown_once_and_keeps_one_signed_in(visitor: Visitor) -> None:
    page = visitor.page
    await visitor.open("account/access-token", "Access Token")
    await page.get_by_role("button", name="Reset").click()
    await page.get_by_role("dialog").get_by_role("button", name="Reset").click()
    await page.get_by_role("button", name="Copy access token").click()
    token = await visitor.clipboard()
    assert re.fullmatch(r"gw-at-[0-9A-Za-z]{49}", token)
    await page.get_by_role("button", name="I have saved it").click()
    await expect(page.get_by_text(f"gw-at-****{token[-4:]}")).to_be_visible()
    await visitor.open("account/audit", "Audit Log")
    await expect(page.get_by_role("row").filter(has_text="Access token reset").first).to_be_visible()


async def test_a_revoked_access_token_signs_out(visitor: Visitor) -> None:
    await visitor.open("account/access-token", "Access Token")
    await visitor.page.get_by_role("button", name="Revoke").click()
    await visitor.page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    await expect(visitor.page.get_by_role("heading", name="Sign in")).to_be_visible()
