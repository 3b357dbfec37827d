"""The console in a real browser, before the real gateway. Chromium is the system's; Playwright only steers it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import count
from typing import Any

import pytest
from e2e.conftest import Gateway, gateway_in
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
TELL_VIOLATIONS = (
    "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.blockedURI))"
)

_names = count(1)


@dataclass
class Visitor:
    """Somebody with a browser of their own. What their pages complain of is kept in `complaints`."""

    gateway: Gateway
    context: BrowserContext
    page: Page
    name: str
    complaints: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.gateway.stack.console_url

    async def open(self, path: str, heading: str) -> None:
        """Go to a page by its address, and wait for its heading and what it loads."""
        await self.page.goto(f"{self.url}#/{path}")
        await expect(self.page.get_by_role("heading", level=1, name=heading)).to_be_visible()
        await expect(self.page.locator(".loading")).to_have_count(0)

    async def sign_in(self, token: str) -> None:
        """Sign in at the form."""
        await self.page.goto(self.url)
        await self.page.get_by_label("Access token").fill(token)
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.page.get_by_role("heading", level=1, name="API Keys")).to_be_visible()

    def heard(self, kind: str, text: str) -> None:
        """Keep what the browser's console says, if it is an error."""
        if kind == "error":
            self.complaints.append(text)

    def row(self, name: str) -> Any:
        """The row of a table that holds this name."""
        return self.page.get_by_role("row").filter(has=self.page.get_by_text(name, exact=True))

    async def clipboard(self) -> str:
        """What was copied."""
        text: str = await self.page.evaluate("navigator.clipboard.readText()")
        return text

    async def grave_faults(self) -> list[str]:
        """What axe finds on the page that keeps somebody from using it."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
        result = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [
            f"{found['id']}: {node['target']} {node['failureSummary']}"
            for found in result["violations"]
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        ]


@pytest.fixture(scope="session")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with gateway_in(tmp_path_factory.mktemp("console")) as gateway:
        yield gateway


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert path, f"one of {', '.join(CHROMIUM)} must be installed: `make test` does it"
    async with async_playwright() as playwright:
        # Chromium's own sandbox doesn't run as root, and not in most containers.
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        await browser.close()


async def operate(gateway: Gateway, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Do something as an operator, and return the answer."""
    async with gateway.stack.operator() as operator:
        response = await operator.request(method, f"/api/v1{path}", json=body)
    assert response.is_success, response.text
    return response.json() if response.content else None


async def new_user(gateway: Gateway) -> tuple[str, str]:
    """Sign up a person; return the name and the access token."""
    name = f"person{next(_names)}"
    await operate(gateway, "POST", "/users", {"name": name})
    token = await operate(gateway, "POST", f"/users/{name}/access-token/reset")
    return name, token["secret"]


async def new_organization(gateway: Gateway, *, admin: str, members: tuple[str, ...] = ()) -> str:
    """Make an organization; return its name."""
    name = f"org{next(_names)}"
    await operate(gateway, "POST", "/organizations", {"name": name, "admin": admin})
    for member in members:
        await operate(gateway, "PUT", f"/organizations/{name}/members/{member}", {"role": "member"})
    return name


@asynccontextmanager
async def visit(
    gateway: Gateway, browser: Browser, name: str, *, forgive: tuple[str, ...] = (), **options: Any
) -> AsyncIterator[Visitor]:
    """Open a browser window; at its end, no page may have complained, but of what is forgiven."""
    options = {"locale": "en-GB", "timezone_id": "Europe/Berlin", "reduced_motion": "reduce"} | options
    context = await browser.new_context(**options)
    context.set_default_timeout(15_000)
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    await context.add_init_script(TELL_VIOLATIONS)
    visitor = Visitor(gateway, context, await context.new_page(), name)
    visitor.page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    visitor.page.on("console", lambda message: visitor.heard(message.type, message.text))
    try:
        yield visitor
    finally:
        await context.close()
    assert [text for text in visitor.complaints if not any(part in text for part in forgive)] == []


@pytest.fixture
async def visitor(gateway: Gateway, browser: Browser) -> AsyncIterator[Visitor]:
    """A person, signed in."""
    name, token = await new_user(gateway)
    async with visit(gateway, browser, name) as visitor:
        await visitor.sign_in(token)
        yield visitor
