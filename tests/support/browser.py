"""Debian's chromium for tests, driven by Playwright; tabs whose errors and requests are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, Page, async_playwright

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser. Without one a test fails in CI and is skipped elsewhere, loudly."""
    program = shutil.which("chromium")
    if program is None:
        reason = "NOT TESTED: the page in a browser. chromium is missing (Debian: apt install chromium)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield made
        finally:
            await made.close()


class Watched:
    """A tab whose errors and requests are kept: `troubles` has errors, warnings, and requests to other sites."""

    def __init__(self, tab: Page, *homes: str) -> None:
        self.tab, self.troubles = tab, list[str]()
        tab.on("console", lambda said: self.troubles.append(said.text) if said.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: self.troubles.append(str(error)))
        tab.on("request", lambda sent: None if sent.url.startswith(homes) else self.troubles.append(sent.url))
