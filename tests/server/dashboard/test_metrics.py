"""The fleet in Prometheus' text: what it counts, whom it is shown; what devices report does not make it grow."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelsync_protocol.errors import UsageError
from modelsync_server.dashboard import metrics
from modelsync_server.dashboard.tables import View
from modelsync_server.signin.access import Access
from tests.server.dashboard.conftest import Page, text
from tests.server.rollout.conftest import MODEL


def _values(exposition: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


async def test_the_fleet_is_counted_as_on_its_page(client: aiohttp.ClientSession) -> None:
    found = _values(await text(client, "/metrics"))
    assert found["modelsync_fleet_devices",] == 5
    assert found["modelsync_fleet_version_devices", MODEL, "", "2"] == 2
    assert found["modelsync_fleet_error_devices", "disk", MODEL, ""] == 1
    assert found["modelsync_fleet_stuck_devices", MODEL, "", "disk"] == 1
    assert found["modelsync_rollout_state", MODEL, "running", "3"] == 1


async def test_a_token_reads_metrics_and_opens_nothing_else(page: Page, client: aiohttp.ClientSession) -> None:
    page.rule(loopback=False, proxies=frozenset({"192.0.2.1"}), operator="", scraper="t" * 20)
    for header in ({}, {"Authorization": "Bearer " + "t" * 19}, {"Authorization": "Basic " + "t" * 20}):
        await text(client, "/metrics", 403, headers=header)
    bearer = {"Authorization": "Bearer " + "t" * 20}
    assert "modelsync_fleet_devices 5.0" in await text(client, "/metrics", headers=bearer)
    await text(client, "/", 403, headers=bearer)
    with pytest.raises(UsageError, match="16"):
        Access(loopback=True, scraper="short")


async def test_what_devices_report_makes_no_series_without_end(page: Page) -> None:
    view = await page.dashboard._views.page([], {})

    async def many(query: object) -> View:
        rows = [(MODEL, "", "error", f'e{number}\n"', 1) for number in range(1000)]
        tables = tuple(replace(each, rows=rows) if each.name == "fleet" else each for each in view.tables)
        return replace(view, tables=tables)

    found = _values((await metrics.render(many)).decode())
    errors = {key[1]: value for key, value in found.items() if key[0] == "modelsync_fleet_error_devices"}
    assert len(errors) == 41 and sum(errors.values()) == 1000 and errors["(others)"] == 960
