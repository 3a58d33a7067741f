"""Makes the pictures of docs/dashboard.md: `python -m tests.support.screenshots`.

A local hub, a made-up fleet of all kinds, a rollout under way, the page, and Debian's chromium. With a folder it takes
every page there, in both schemes, for a desktop and a telephone.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.async_api import async_playwright

from tests.server.rollout.conftest import MODEL
from tests.support.browser import ARGUMENTS
from tests.support.figures import ROOT
from tests.support.motley_fleet import Motley, motley

FOLDER = ROOT / "docs" / "fleet"
PAGES = {
    "fleet": "/",
    "devices": f"/devices?model={MODEL}&error=disk",
    "device": "/device/truck-10",
    "model": f"/model/{MODEL}",
    "update": f"/model/{MODEL}/update/2-3",
    "rollout": f"/rollout/{MODEL}",
    "rollouts": "/rollouts",
    "cost": "/cost",
    "acts": "/acts",
}
DESKTOP, TELEPHONE = (1100, 760), (390, 760)
PICTURES = (
    ("fleet", "fleet", "light", DESKTOP),
    ("devices", "devices", "light", (1100, 420)),
    ("device", "device", "light", DESKTOP),
    ("rollout-dark", "rollout", "dark", DESKTOP),
    ("model", "model", "light", DESKTOP),
    ("telephone", "fleet", "dark", TELEPHONE),
)


async def main() -> None:
    """Write the pictures."""
    wanted = [(name, page, scheme, size, False) for name, page, scheme, size in PICTURES]
    folder = FOLDER
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        wanted = [
            (f"{page}-{scheme}-{width}", page, scheme, (width, height), True)
            for page in PAGES
            for scheme in ("light", "dark")
            for width, height in (DESKTOP, TELEPHONE)
        ]
    with tempfile.TemporaryDirectory() as scratch:
        async with motley(Path(scratch), "127.0.0.77") as fleet:
            await _take(fleet, folder, wanted)


async def _take(fleet: Motley, folder: Path, wanted: list[tuple[str, str, str, tuple[int, int], bool]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for name, page, scheme, (width, height), whole in wanted:
            context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
            tab = await context.new_page()
            await tab.goto(fleet.link)
            await tab.goto(fleet.url + PAGES[page])
            await tab.screenshot(path=folder / f"{name}.png", full_page=whole)
            await context.close()
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
