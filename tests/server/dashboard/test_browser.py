"""The page in a real browser: no error, no request elsewhere, buttons, live changes, both schemes, accessible (axe)."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, async_playwright
from playwright.async_api import Page as Tab

from modelsync_server.rollout.record import State
from tests.server.dashboard.conftest import Page
from tests.server.rollout.conftest import MODEL
from tests.support.npm import installed

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PAGES = ("/", "/devices", "/device/r2", f"/model/{MODEL}", "/rollouts", f"/rollout/{MODEL}", "/cost")
AXE_VERSION = "4.14.1"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        reason = "NOT TESTED: the page in a browser. chromium is missing (Debian: apt install chromium)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield made
        await made.close()


class Watched:
    """A tab whose errors and requests are kept."""

    def __init__(self, tab: Tab, home: str) -> None:
        self.tab, self.troubles = tab, list[str]()
        tab.on("console", lambda said: self.troubles.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: self.troubles.append(str(error)))
        tab.on("request", lambda sent: None if sent.url.startswith(home) else self.troubles.append(sent.url))


async def opened(browser: Browser, page: Page, **options: Any) -> Watched:
    context = await browser.new_context(**options)
    watched = Watched(await context.new_page(), page.url)
    await watched.tab.goto(page.link)
    return watched


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_is_quiet_accessible_and_fits_a_telephone(browser: Browser, page: Page, scheme: Any) -> None:
    axe = installed("axe-core", AXE_VERSION, "axe.min.js").read_text()
    watched = await opened(browser, page, color_scheme=scheme, viewport={"width": 390, "height": 800}, bypass_csp=False)
    for path in PAGES:
        await watched.tab.goto(page.url + path)
        assert await watched.tab.title() != "taken"
        width = await watched.tab.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{path} is {width} wide"
        found = await watched.tab.evaluate(f"(async () => {{ {axe}; return await axe.run() }})()")
        serious = [each["id"] for each in found["violations"] if each["impact"] in ("serious", "critical")]
        assert not serious, f"{path} in {scheme}: {serious}"
    assert watched.troubles == []


async def test_an_operator_pauses_with_the_keyboard_and_sees_it(browser: Browser, page: Page) -> None:
    watched = await opened(browser, page)
    await watched.tab.goto(f"{page.url}/rollout/{MODEL}")
    await watched.tab.get_by_role("button", name="Pause").press("Enter")
    await watched.tab.get_by_role("status").wait_for()
    assert "paused" in await watched.tab.inner_text("h1")
    assert (await page.world.status()).record.state is State.PAUSED
    await watched.tab.get_by_role("button", name="Abort and return").click()
    await watched.tab.get_by_text("abort").first.wait_for()
    assert (await page.world.status()).record.state in (State.RETURNING, State.RETURNED)
    assert watched.troubles == []


async def test_an_open_page_changes_by_itself(browser: Browser, page: Page) -> None:
    watched = await opened(browser, page)
    await watched.tab.goto(f"{page.url}/devices")
    assert await watched.tab.get_by_text("newcomer").count() == 0
    await asyncio.sleep(0.5)
    page.world.puppets.add(["newcomer"], 2)
    await watched.tab.get_by_text("newcomer").wait_for(timeout=15_000)
    assert watched.troubles == []


async def test_who_is_stuck_and_why_is_two_clicks_away(browser: Browser, page: Page) -> None:
    watched = await opened(browser, page)
    await watched.tab.goto(page.url)
    await watched.tab.get_by_role("link", name="disk").click()
    await watched.tab.get_by_role("link", name="r2").click()
    assert "disk" in await watched.tab.inner_text(".trouble")
