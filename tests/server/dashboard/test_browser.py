"""The page in a real browser: no error, no request elsewhere, every button, live changes, both schemes, axe."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser

from modelsync_server.rollout.record import State
from tests.server.dashboard.conftest import Page
from tests.server.rollout.conftest import MODEL
from tests.support.browser import Watched, chromium
from tests.support.npm import installed

PAGES = (
    "/", "/devices", "/device/r2", f"/model/{MODEL}", f"/model/{MODEL}/update/2-3", "/rollouts", f"/rollout/{MODEL}",
    "/cost", "/acts",
)  # fmt: skip
LOOKED_AT = ("/", "/devices", "/device/r2", f"/rollout/{MODEL}")
AXE_VERSION = "4.14.1"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as made:
        yield made


async def opened(browser: Browser, page: Page, **options: Any) -> Watched:
    context = await browser.new_context(**options)
    watched = Watched(await context.new_page(), page.url)
    await watched.tab.goto(page.link)
    return watched


async def test_every_page_is_quiet_accessible_and_fits_a_telephone(browser: Browser, page: Page) -> None:
    axe = installed("axe-core", AXE_VERSION, "axe.min.js").read_text()
    watched = await opened(browser, page, viewport={"width": 390, "height": 800}, bypass_csp=False)
    for path in PAGES:
        await watched.tab.goto(page.url + path)
        assert await watched.tab.title() != "taken"
        width = await watched.tab.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{path} is {width} wide"
        if path not in LOOKED_AT:
            continue  # test_motley.py looks at all of them, and longer
        await watched.tab.evaluate(axe)
        for scheme, rules in (("light", ""), ("dark", "{runOnly: ['color-contrast']}")):  # colours are all that differs
            await watched.tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = await watched.tab.evaluate(f"axe.run({rules})")
            serious = [each["id"] for each in found["violations"] if each["impact"] in ("serious", "critical")]
            assert not serious, f"{path} in {scheme}: {serious}"
    assert watched.troubles == []


async def test_an_operator_works_a_rollout_with_the_keyboard(browser: Browser, page: Page) -> None:
    watched = await opened(browser, page)
    tab = watched.tab
    await tab.goto(f"{page.url}/rollout/{MODEL}")
    await tab.get_by_role("button", name="Pause").press("Enter")
    await tab.get_by_role("status").wait_for()
    assert "paused" in await tab.inner_text("h1")
    assert await tab.get_by_role("button", name="Pause").count() == 0, "what can't be done is not offered"
    await tab.get_by_role("button", name="Resume").press("Enter")
    await tab.get_by_role("button", name="Pause").wait_for()
    assert (await page.world.status()).record.state is State.RUNNING
    summary = tab.locator("summary", has_text="Abort and return")
    await summary.press("Enter")  # nothing is ended by one key
    assert (await page.world.status()).record.state is State.RUNNING
    await tab.get_by_role("button", name="Abort and return").press("Enter")
    await tab.locator("h1", has_text="return").wait_for()
    assert (await page.world.status()).record.state in (State.RETURNING, State.RETURNED)
    await tab.goto(f"{page.url}/acts")
    assert await tab.get_by_role("rowheader").count() == 3
    assert watched.troubles == []


async def test_every_button_of_a_device_asks_it(browser: Browser, page: Page) -> None:
    watched = await opened(browser, page)
    tab = watched.tab
    await tab.goto(f"{page.url}/device/r0")
    for name in ("Sync", "Ask it now", "Hold", "Release", "Roll back"):
        if name == "Roll back":
            await tab.locator("summary", has_text=name).press("Enter")
        async with tab.expect_navigation():
            await tab.get_by_role("button", name=name, exact=True).press("Enter")
        assert "not connected" in await tab.get_by_role("status").inner_text(), "it is away, and that is an answer"
    lines = [json.loads(line) for line in page.audit.read_text().splitlines()]
    asked = [line["what"] for line in lines if line["answer"] == "begun"]
    assert asked == ["sync", "status", "hold", "release", "rollback"]
    assert await tab.get_by_text("operator ada").count() == 5, "acts are a part of its history"
    assert watched.troubles == []


async def test_an_open_page_changes_by_itself_and_keeps_the_place(browser: Browser, page: Page) -> None:
    watched = await opened(browser, page)
    tab = watched.tab
    await tab.goto(f"{page.url}/devices")
    assert await tab.get_by_text("newcomer").count() == 0
    await tab.locator("#o-state").focus()
    page.world.puppets.add(["newcomer"], 2)
    await tab.get_by_text("newcomer").wait_for(timeout=15_000)
    assert await tab.evaluate("document.activeElement.id") == "o-state", "the keyboard stays where it was"
    await tab.locator("#f-device").focus()
    await tab.keyboard.type("new")
    page.world.puppets.add(["newer"], 2)
    await asyncio.sleep(1.0)
    assert await tab.input_value("#f-device") == "new", "nothing moves under the hands of who types"
    await tab.keyboard.press("Enter")
    await tab.get_by_role("rowheader", name="newer").wait_for()
    assert await tab.get_by_role("rowheader").count() == 2 and "device=new" in tab.url
    assert watched.troubles == []


async def test_who_is_stuck_and_why_is_two_clicks_away(browser: Browser, page: Page) -> None:
    watched = await opened(browser, page)
    await watched.tab.goto(page.url)
    assert "no room for the version" in await watched.tab.inner_text("table")
    await watched.tab.get_by_role("link", name="disk").click()
    await watched.tab.get_by_role("link", name="r2").click()
    assert "disk" in await watched.tab.inner_text(".trouble")
