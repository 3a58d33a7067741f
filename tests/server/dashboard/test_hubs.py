"""The page over hubs that are slow, that group less than ours, or that are flooded; and what it may cost them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from modelsync_protocol.errors import LocalError, RefusedError, UsageError
from modelsync_server.dashboard import acts, counting
from modelsync_server.dashboard.acts import Audit
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.service_client import MethodResult, ServiceClient
from modelsync_server.rollout.target import Target
from tests.server.dashboard.conftest import Page, tables, text
from tests.server.rollout.conftest import MODEL
from tests.support.waiting import PATIENCE_SECONDS


class AzureLike:
    """A hub that groups devices by one property and counts no modules, as Azure documents it. Keeps questions."""

    def __init__(self, hub: ServiceClient) -> None:
        self._hub = hub
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)

    async def query_page(self, text: str, **options: Any) -> Any:
        self.asked.append(text)
        if "," in text.partition("GROUP BY")[2] or ("COUNT" in text and "devices.modules" in text):
            raise UsageError("the hub does not understand this query.")
        return await self._hub.query_page(text, **options)


async def test_a_hub_that_groups_by_one_property_gives_the_same_counts(page: Page) -> None:
    hub, now = page.world.client, page.world.client.now()
    azure = AzureLike(hub)
    ours = await counting.grouped(hub, MODEL, Target(), now)
    theirs = await counting.grouped(azure, MODEL, Target(), now)
    assert (ours.versions, ours.errors, ours.behind, ours.without) == (
        theirs.versions, theirs.errors, theirs.behind, theirs.without,
    )  # fmt: skip
    assert [(r.kind, r.code) for r in theirs.reasons] == [("error", "disk")]
    assert await counting.silent_modules(azure, "modelsync", now, 60) == 0


async def test_no_view_reads_the_fleet(page: Page, client: aiohttp.ClientSession) -> None:
    page.world.puppets.add([f"many-{number:03}" for number in range(120)], 2)
    counted = AzureLike(page.world.client)
    rows = 0

    async def query_page(text: str, **options: Any) -> Any:
        nonlocal rows
        counted.asked.append(text)
        found, token = await page.world.client.query_page(text, **options)
        rows += len(found)
        return found, token

    counted.query_page = query_page  # type: ignore[method-assign]
    page.dashboard._views.hub = counted
    page.answers.seconds = 3600.0
    for path in ("/", "/devices", f"/devices?model={MODEL}&version=2", "/device/many-001", "/cost", "/rollouts"):
        await text(client, path)
    assert rows < 140 and len(counted.asked) < 16, counted.asked
    asked = len(counted.asked)
    for path in ("/", "/devices", "/device/many-001", "/cost", "/rollouts", "/"):
        await text(client, path)
    assert len(counted.asked) == asked, "what is fresh is asked once, whoever looks"


async def test_a_fleet_that_floods_the_groups_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flooded:
        pages = 0

        async def query_page(self, text: str, *, page: int = 100, token: str | None = None) -> Any:
            self.pages += 1
            assert self.pages < 20
            return [
                {"state": f"made up {self.pages}-{n}", "version": "x" * 4000, "devices": 1} for n in range(page)
            ], "more"

    hub = Flooded()
    found = await counting.grouped(hub, MODEL, Target(), 0.0)  # type: ignore[arg-type]
    assert not found.whole and hub.pages == 5
    assert max(len(group.value) for group in found.versions) < 50


async def test_a_hub_that_counts_for_long_is_said_and_then_shown(page: Page, client: aiohttp.ClientSession) -> None:
    release = asyncio.Event()
    real = page.world.client.query_page

    async def slow(*arguments: Any, **options: Any) -> Any:
        await release.wait()
        return await real(*arguments, **options)

    page.world.client.query_page = slow  # type: ignore[method-assign]
    page.dashboard._patience = 0.1
    body = await text(client, "/", 202)
    assert "still counting" in body
    mark = re.search(r'data-mark="(\w+)"', body)
    assert mark is not None
    async with client.get("/live", params={"path": "/", "mark": mark[1]}) as response:
        release.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"changed" not in await response.content.readline():
                pass
    assert "Who is stuck" in await text(client, "/")


async def test_old_counts_are_shown_while_new_ones_are_asked_for(page: Page, client: aiohttp.ClientSession) -> None:
    await text(client, "/devices")
    real, release = page.world.client.query_page, asyncio.Event()

    async def slow(*arguments: Any, **options: Any) -> Any:
        await release.wait()
        return await real(*arguments, **options)

    page.world.client.query_page = slow  # type: ignore[method-assign]
    page.answers.seconds = 0.0
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert "r2" in await text(client, "/devices")
    release.set()


async def test_an_act_on_a_module_asks_the_module(tmp_path: Path) -> None:
    called = []

    class Hub:
        async def invoke(self, device: str, method: str, payload: Any, module: str | None, **_: Any) -> MethodResult:
            called.append((device, method, payload, module))
            return MethodResult(409, {"error": "<b>not now</b>"})

    form = {"act": "hold", "device": "gate", "module": "modelsync", "model": MODEL}
    said, _ = await acts.act(Hub(), Audit(tmp_path / "log"), "ada", form)  # type: ignore[arg-type]
    assert called == [("gate", "hold", {"model": MODEL}, "modelsync")] and "not now" in said
    assert json.loads((tmp_path / "log").read_text().splitlines()[1])["on"] == f"gate/modelsync {MODEL}"


async def test_an_act_whose_answer_can_not_be_written_down_is_said(tmp_path: Path) -> None:
    log = tmp_path / "folder" / "log"
    log.parent.mkdir()

    class Hub:
        async def invoke(self, *_: Any, **__: Any) -> MethodResult:
            log.unlink()
            log.parent.rmdir()
            return MethodResult(202, {})

    said, _ = await acts.act(Hub(), Audit(log), "ada", {"act": "sync", "device": "d"})  # type: ignore[arg-type]
    assert "answered sync with 202" in said and "audit log" in said
    with pytest.raises(LocalError):
        await acts.act(Hub(), Audit(log), "ada", {"act": "sync", "device": "d"})  # type: ignore[arg-type]


def test_a_damaged_audit_log_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    log = Audit(tmp_path / "log")
    log.write("ada", "sync", "d", "begun")
    log.write("ada", "sync", "d", "done")
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"when": "cut by a cra\n\xff\xfe\n[1]\n{"answer": ["x"], "who": "eve"}\n')
    assert [each.get("who") for each in log.recent()] == ["eve", "ada"]


async def test_a_device_that_answers_is_shown_in_its_own_words(page: Page, client: aiohttp.ClientSession) -> None:
    page.answers.keep(("said", "r0"), ("2026-11-28 12:00:00", {"models": {"<script>": "\u202e" + "x" * 9000}}))
    body = await text(client, "/device/r0")
    assert "What it answered at 2026-11-28 12:00:00" in body and "<script>:" not in body and "\u202e" not in body


async def test_readers_are_named_apart_from_actors(page: Page, client: aiohttp.ClientSession) -> None:
    page.rule(loopback=False, proxies=frozenset({"127.0.0.1"}), readers=frozenset({"bob"}), actors=frozenset({"ada"}))
    for name, status in (("bob", 200), ("ada", 200), ("eve", 403), (" ", 403), ("x" * 200, 403)):
        await text(client, "/acts", status, headers={"X-Forwarded-User": name})
    twice = [("X-Forwarded-User", "ada"), ("X-Forwarded-User", "bob")]
    await text(client, "/acts", 403, headers=twice)


async def test_a_hub_that_refuses_this_operator_is_said(page: Page, client: aiohttp.ClientSession) -> None:
    async def refused(*_: Any, **__: Any) -> None:
        raise RefusedError("the hub refuses these credentials.")

    page.world.client.configurations = page.world.client.query_page = refused  # type: ignore[method-assign, assignment]
    for path in ("/", "/devices", f"/rollout/{MODEL}", "/cost"):
        assert "refuses these credentials" in await text(client, path, 403)


async def test_a_page_without_a_store_knows_models_by_what_devices_say(
    page: Page, client: aiohttp.ClientSession
) -> None:
    page.dashboard._views.store = None
    page.world.hub.registry.report(
        Identity("r0", None),
        {"modelsync": {"models": {"spare": {"state": "active", "version": 1}, "/x": {"version": 1}}}},
    )
    assert {row["model"] for row in (await tables(client, "/"))["fleet"]} == {MODEL, "spare"}
