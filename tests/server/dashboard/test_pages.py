"""The operator's page over HTTP: what it shows, what it can't be broken by, who may look and who may act."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

import aiohttp
import pytest

from modelsync_protocol.errors import UnreachableError, UsageError
from modelsync_server.dashboard.answers import Answers
from modelsync_server.dashboard.listing import Filter
from modelsync_server.dashboard.tables import Table
from modelsync_server.dashboard.text import shown
from modelsync_server.rollout.record import State
from modelsync_server.signin.access import Access
from tests.server.dashboard.conftest import Page, tables, text, token_of
from tests.server.rollout.conftest import MODEL
from tests.support.waiting import within

PAGES = (
    "/", "/devices", "/device/r2", f"/model/{MODEL}", f"/model/{MODEL}/update/2-3", "/rollouts", f"/rollout/{MODEL}",
    "/cost", "/acts",
)  # fmt: skip


async def test_every_page_shows_something_and_loads_nothing_from_elsewhere(client: aiohttp.ClientSession) -> None:
    for path in PAGES:
        async with client.get(path) as response:
            body = await response.text()
            policy = response.headers["Content-Security-Policy"]
        assert response.status == 200 and "<h1>" in body, path
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "://" not in body.replace("http://www.w3.org", "") and "<style" not in body and " style=" not in body
        assert "<script>" not in body and "\u202e" not in body, "what a device reports is text, and nothing else"


async def test_every_table_is_sorted_searched_and_had_as_csv_and_json(client: aiohttp.ClientSession) -> None:
    for path in PAGES:
        for table, rows in (await tables(client, path)).items():
            async with client.get(path, params={"format": "csv", "table": table}) as response:
                listed = list(csv.reader(io.StringIO(await response.text())))
            assert response.status == 200 and len(listed) == len(rows) + 1, (path, table)
            if rows:
                column = f"-{table}.{next(iter(rows[0]))}"
                assert len((await tables(client, path, sort=column))[table]) == len(rows), (path, column)
                assert (await tables(client, path, find="no such text"))[table] == []
        await text(client, path + "?sort=nothing", 404)


async def test_the_fleet_is_counted_by_version_state_and_error(client: aiohttp.ClientSession) -> None:
    async with client.get("/", params={"format": "json"}) as response:
        rows = (await response.json())["fleet"]
    found = {(row["kind"], row["value"]): row["devices"] for row in rows}
    assert found["version", "2"] == 2 and found["version", "1"] == 3
    assert found["error", "disk"] == 1 and found["state", "waiting"] >= 1


async def test_a_filter_finds_who_is_stuck_and_says_why(client: aiohttp.ClientSession) -> None:
    async with client.get("/devices", params={"model": MODEL, "error": "disk", "format": "json"}) as response:
        (row,) = (await response.json())["devices"]
    assert (row["device"], row["error"]) == ("r2", "disk") and "taken" in row["text"]
    for wrong in ("/devices?model=No", "/devices?model=anomaly&version=x", "/devices?sort=no"):
        assert 'role="alert"' in await text(client, wrong, 404)
    assert 'role="alert"' in await text(client, "/device/nobody", 404)
    assert 'role="alert"' in await text(client, "/model/nothing", 404)


async def test_tables_are_csv_that_no_spreadsheet_takes_for_formulas(client: aiohttp.ClientSession) -> None:
    rows = list(csv.reader(io.StringIO(await text(client, "/devices?format=csv"))))
    assert rows[0][:2] == ["device", "connected"] and len(rows) == 6
    table = Table("t", ("a",), [("=1+1",), ("@x",), ("fine",), (5,), ("",), (None,)])
    assert [row[0] for row in csv.reader(io.StringIO(table.csv()))] == ["a", "'=1+1", "'@x", "fine", "5", "", ""]
    await text(client, "/devices?format=csv&table=none", 404)


def test_what_is_reported_is_short_and_hides_nothing() -> None:
    assert shown("a\nb\u202ec\x00") == "a\ufffdb\ufffdc\ufffd"
    assert len(shown("x" * 10_000)) < 400 and shown({"a": [1]}) == "{'a': [1]}" and shown(None) == ""
    assert Filter(device="x' OR '1'='1").condition(0.0).startswith("deviceId >= 'x\\' OR")


async def test_who_looks_can_not_act(client: aiohttp.ClientSession, page: Page) -> None:
    assert 'action="/act"' not in await text(client, f"/rollout/{MODEL}")
    form = {"act": "pause", "model": MODEL, "token": ""}
    async with client.post("/act", data=form) as response:
        assert response.status == 403
    async with client.get("/signin", params={"token": "0" * 64}) as response:
        assert response.status == 403
    async with client.get("/", headers={"Host": "evil.example.com"}) as response:
        assert response.status == 421, "a name of somebody else's that resolves to this machine"
    assert not page.audit.exists()


async def test_the_operator_pauses_and_resumes_and_it_is_written_down(
    client: aiohttp.ClientSession, page: Page
) -> None:
    async with client.get(page.link) as response:
        assert response.status == 200 and "ada" in await response.text()
    for act, state in (("pause", State.PAUSED), ("resume", State.RUNNING)):
        form = {
            "act": act,
            "model": MODEL,
            "token": token_of(await text(client, f"/rollout/{MODEL}")),
            "back": "//evil",
        }
        async with client.post("/act", data=form, allow_redirects=False) as response:
            assert response.status == 303 and response.headers["Location"].startswith("/?said=")
        assert (await page.world.status()).record.state is state
    lines = [json.loads(line) for line in page.audit.read_text().splitlines()]
    assert [(line["who"], line["what"], line["answer"] == "begun") for line in lines] == [
        ("ada", "pause", True), ("ada", "pause", False), ("ada", "resume", True), ("ada", "resume", False),
    ]  # fmt: skip


async def test_another_site_leads_here_and_loads_nothing(client: aiohttp.ClientSession) -> None:
    for site in ("cross-site", "same-site"):
        await text(client, "/", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})
        for path in ("/", "/live?path=/", "/static/live.js"):
            await text(client, path, 403, headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"})


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"Origin": "http://evil.example.com"}},
        {"headers": {"Sec-Fetch-Site": "cross-site"}},
        {"token": "0" * 64},
    ],
)
async def test_a_form_of_another_site_is_refused(
    client: aiohttp.ClientSession, page: Page, changes: dict[str, object]
) -> None:
    await text(client, page.link)
    token = changes.get("token") or token_of(await text(client, f"/rollout/{MODEL}"))
    form = {"act": "abort", "model": MODEL, "token": str(token)}
    async with client.post("/act", data=form, headers=changes.get("headers")) as response:  # type: ignore[arg-type]
        assert response.status == 403
    assert (await page.world.status()).record.state is State.RUNNING


async def test_a_device_that_is_away_is_an_answer_and_so_is_nonsense(client: aiohttp.ClientSession, page: Page) -> None:
    await text(client, page.link)
    token = token_of(await text(client, "/device/r0"))
    for form, words in (
        ({"act": "sync", "device": "r0"}, "r0"),
        ({"act": "explode", "device": "r0"}, "none of"),
        ({"act": "hold", "device": "r0", "model": "../x"}, "not a model name"),
    ):
        async with client.post("/act", data={**form, "token": token, "back": "/device/r0"}) as response:
            assert response.status == 200 and words in await response.text()
    assert len(page.audit.read_text().splitlines()) == 6


async def test_an_open_page_is_told_of_a_change(client: aiohttp.ClientSession, page: Page) -> None:
    async with client.get("/live", params={"path": "/devices"}) as response:
        assert response.headers["Content-Type"] == "text/event-stream"

        async def changes() -> None:
            while b"changed" not in await response.content.readline():
                pass

        await within(changes())  # from a page that nobody has shown yet
        page.world.puppets.add(["new"], 1)
        await within(changes())


async def test_a_hub_that_does_not_answer_is_said_and_what_was_known_is_shown(
    client: aiohttp.ClientSession, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    await text(client, "/devices")

    async def throttled(*_: object, **__: object) -> None:
        raise UnreachableError("the hub allows no more queries for 17 s.")

    monkeypatch.setattr(page.world.client, "query_page", throttled)
    page.answers.forget()
    body = await text(client, "/devices")
    assert "17 s" in body and "r2" in body
    assert "17 s" in await text(client, "/devices?device=c", 503)


async def test_many_views_at_once_ask_once() -> None:
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return asked

    answers = Answers(60)
    found = await asyncio.gather(*(answers.get("key", ask) for _ in range(50)))
    assert asked == 1 and {each.value for each in found} == {1}
    answers.forget()
    assert (await answers.get("key", ask)).value == 2


def test_who_may_look_has_to_be_said() -> None:
    with pytest.raises(UsageError, match="who may look"):
        Access(loopback=False)
    with pytest.raises(UsageError, match="no IP address"):
        Access(loopback=False, proxies=frozenset({"proxy"}))


async def test_a_named_proxy_says_who_it_is(page: Page, client: aiohttp.ClientSession) -> None:
    rules = Access(loopback=False, proxies=frozenset({"127.0.0.1"}), actors=frozenset({"ada"}))
    page.dashboard._access = rules
    async with client.get("/") as response:
        assert response.status == 403
    for name, acts in (("ada", True), ("bob", False)):
        async with client.get(f"/rollout/{MODEL}", headers={"X-Forwarded-User": name}) as response:
            body = await response.text()
        assert response.status == 200 and ('action="/act"' in body) is acts and name in body


def test_the_audit_log_that_can_not_be_written_stops_the_act(tmp_path: Path) -> None:
    from modelsync_protocol.errors import LocalError
    from modelsync_server.dashboard.acts import Audit

    with pytest.raises(LocalError, match="audit log"):
        Audit(tmp_path / "none" / "log").write("ada", "pause", "m", "begun")


async def test_a_model_says_what_was_withdrawn_and_what_would_be_cheaper(
    client: aiohttp.ClientSession, page: Page
) -> None:
    shop = page.world.shop
    path = shop.root / "artifacts" / "model.bin"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(range(256)) * 450)
    await shop.publish(MODEL, path, last=0)
    await (await shop.repository()).withdraw(MODEL, 3)
    found = await tables(client, f"/model/{MODEL}")
    versions = {row["version"]: row for row in found["versions"]}
    assert versions[3]["signed"] == "withdrawn" and versions[4]["signed"].startswith(MODEL)
    assert versions[2]["devices"] == 2 and versions[1]["devices"] == 3
    ways = {row["base"]: row for row in found["to_newest"]}
    assert ways.keys() == {1, 2} and ways[1]["total"] == 3 * ways[1]["bytes"] and "update" in ways[1]["cheaper"]
    body = await text(client, f"/model/{MODEL}")
    assert f"{MODEL} PATH-OF-VERSION-4 --version 4 --bases 1,2" in body and "withdrawn: 3" in body


async def test_what_rings_cost_is_summed_by_model_day_and_month(client: aiohttp.ClientSession, page: Page) -> None:
    await page.world.go()
    found = await tables(client, "/cost")
    spent = sum(row["spent"] or 0 for row in found["cost"])
    assert spent > 0 and [row["spent"] for row in found["models"]] == [spent]
    assert [len(row["period"]) for row in found["opened"]] == [10, 7]
    assert {row["spent"] for row in found["opened"]} == {spent}
    images = sum(row["devices"] for row in found["cost"]) * 60_000_000
    assert found["models"][0]["image"] == images and found["models"][0]["money"] == spent / 1e9 * 100.0
