"""The page over a made-up fleet of all kinds: who is stuck is counted right, each count leads to those devices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tests.server.dashboard.conftest import tables, text
from tests.server.rollout.conftest import MODEL
from tests.support.addresses import loopback_address
from tests.support.browser import Watched, chromium
from tests.support.motley_fleet import Motley, Stock, motley
from tests.support.npm import installed

PAGES = ("/", "/devices", "/devices?page=200&model=anomaly", "/device/truck-10", "/device/truck-23", "/device/truck-24",
         "/device/truck-25", "/device/bus-01", "/device/bus-02", "/device/gate-0", "/device/attic-1", f"/model/{MODEL}",
         f"/rollout/{MODEL}", "/rollouts", "/cost", "/acts", "/nowhere")  # fmt: skip
AXE_VERSION = "4.14.1"


@pytest.fixture
async def fleet(stock: Stock, tmp_path: Path, worker_id: str) -> AsyncIterator[Motley]:
    async with motley(tmp_path, loopback_address(worker_id), stock) as made:
        yield made


async def test_each_reason_leads_to_just_its_devices(fleet: Motley) -> None:
    async with aiohttp.ClientSession(fleet.url) as client:
        found = await tables(client, "/")
        reasons = {(row["why"], row["module"]): row for row in found["stuck"]}
        expected = {
            "disk": {"truck-09", "truck-15"}, "probe": {"truck-12", "truck-18"}, "serving": {"truck-13", "truck-19"},
            "slow": {"truck-20"}, "held": {"truck-22"}, "nonsense": {"truck-23"}, "unheard": {"attic-2"},
            "wishes not understood": {"bus-01"},
        }  # fmt: skip
        for why, devices in expected.items():
            row = reasons[why, ""]
            listed = await tables(client, row["list"])
            assert {each["device"] for each in listed["devices"]} >= devices, why
            assert row["devices"] == len(devices), why
        exact = {"disk", "probe", "serving", "slow", "unheard", "held"}
        for why in exact:
            listed = await tables(client, reasons[why, ""]["list"])
            assert {each["device"] for each in listed["devices"]} == expected[why], why
        silent = await tables(client, reasons["silent", ""]["list"])
        assert {each["device"] for each in silent["devices"]} == {"attic-1", "attic-2", "gate-0", "gate-1"}
        hostile = [row for row in found["stuck"] if "script" in row["why"]]
        assert len(hostile) == 1 and "trouble" in hostile[0]["list"], "what can't be asked for leads to all errors"


async def test_a_modules_models_are_counted_listed_and_shown(fleet: Motley) -> None:
    async with aiohttp.ClientSession(fleet.url) as client:
        counted = (await tables(client, "/"))["fleet"]
        assert {(r["kind"], r["value"]): r["devices"] for r in counted if r["module"]}["version", "2"] == 2
        listed = (await tables(client, "/devices", model=MODEL, module="modelsync"))["devices"]
        assert {row["device"] for row in listed} == {"gate-0", "gate-1"} and listed[0]["version"] == "2"
        (row,) = (await tables(client, "/device/gate-0"))["models"]
        assert (row["module"], row["desired"], row["version"]) == ("modelsync", "2", "2")
        assert "Module modelsync" in await text(client, "/device/gate-0")


async def test_a_devices_history_is_the_hubs_and_what_was_seen(fleet: Motley) -> None:
    async with aiohttp.ClientSession(fleet.url) as client:
        history = (await tables(client, "/device/truck-09"))["history"]
        assert any(row["source"] == "device" and "disk" in row["what"] for row in history)
        assert any(row["source"] == "desired" and "version 3" in row["what"] for row in history)
        fleet.report("truck-09", {"state": "active", "version": 3, "error": None})
        fleet.dashboard._answers.forget()
        history = (await tables(client, "/device/truck-09"))["history"]
        assert [row["what"] for row in history if row["source"] == "seen here"] == [
            "version 3, state active, about version 3"
        ]
        assert "minutes ahead" in await text(client, "/device/truck-25"), "a clock that is wrong is said"
        body = await text(client, "/device/truck-10")
        assert "of 1 MB" in body and "92 % of the budget" in body


async def test_a_rings_failures_lead_to_the_devices(fleet: Motley) -> None:
    async with aiohttp.ClientSession(fleet.url) as client:
        ring = (await tables(client, f"/rollout/{MODEL}"))["rings"][1]
        body = await text(client, f"/rollout/{MODEL}")
        address = (
            body.split(f"{ring['failed']} failed</a>")[0].rsplit('href="', 1)[1].split('"')[0].replace("&amp;", "&")
        )
        listed = (await tables(client, address))["devices"]
        assert ring["failed"] == len(listed) > 0 and {row["state"] for row in listed} <= {"quarantined", "rolled back"}


async def test_a_long_list_is_had_page_by_page(fleet: Motley) -> None:
    async with aiohttp.ClientSession(fleet.url) as client:
        address, seen = "/devices?page=15&format=json", list[str]()
        while address:
            async with client.get(address) as response:
                seen += [row["device"] for row in (await response.json())["devices"]]
                following = response.links.get("next")
                address = URL(str(following["url"])).raw_path_qs if following else ""
        assert len(seen) == len(set(seen)) == 40


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_nothing_that_a_device_reports_breaks_a_page(fleet: Motley) -> None:
    axe = installed("axe-core", AXE_VERSION, "axe.min.js").read_text()
    async with chromium() as browser:
        context = await browser.new_context()
        watched = Watched(await context.new_page(), fleet.url)
        await watched.tab.goto(fleet.link)
        for path in PAGES:
            await watched.tab.goto(fleet.url + path)
            for width in (360, 1280):
                await watched.tab.set_viewport_size({"width": width, "height": 800})
                wide = await watched.tab.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{path} is {wide} wide on {width}"
            await watched.tab.evaluate(axe)
            for scheme, rules in (("light", ""), ("dark", "{runOnly: ['color-contrast']}")):  # all that differs
                await watched.tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                found = await watched.tab.evaluate(f"axe.run({rules})")
                serious = [each["id"] for each in found["violations"] if each["impact"] in ("serious", "critical")]
                assert not serious, f"{path} in {scheme}: {serious}"
            assert await watched.tab.title() != "taken"
        assert [each for each in watched.troubles if "404" not in each] == []
