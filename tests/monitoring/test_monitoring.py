"""What an operator's Prometheus and Grafana are given: rules by promtool, dashboards by a Prometheus that runs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from grafana_foundation_sdk.models.dashboard import Dashboard as Schema

from deploy.monitoring import dashboards
from modelsync_server.dashboard.acts import Audit
from modelsync_server.dashboard.answers import Answers
from modelsync_server.dashboard.app import Dashboard
from modelsync_server.dashboard.views import Views
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.origin.origin import application
from modelsync_server.signin.access import Access
from tests.support.addresses import free_port
from tests.support.azure_world import NAME, cloud
from tests.support.infer_process import InferProcess
from tests.support.prometheus import prometheus
from tests.support.shop import Shop
from tests.support.tiny_models import scaler
from tests.support.tools import needs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
MAY_BE_EMPTY = (
    "modelsync_site_bytes",  # no site here
    "modelsync_fleet_error_devices",  # nothing is wrong here
    "modelsync_fleet_stuck_devices",
    "modelsync_rollout_state",
    "modelsync_inference_failures_total",
    "modelsync_model_update_bytes",
)
"""Metrics without a series where nothing of the kind happened."""


def test_the_alert_rules_speak_when_they_should() -> None:
    needs("promtool")
    for command in (("check", "rules", "rules.yml"), ("test", "rules", "rules.test.yml")):
        done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_configuration_is_prometheus_own(tmp_path: Path) -> None:
    needs("promtool")
    for name in ("prometheus.yml", "rules.yml"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    (tmp_path / "token").write_text("t" * 20)
    command = ["promtool", "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_and_a_page() -> None:
    alerts = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
    tests = (FOLDER / "rules.test.yml").read_text()
    headings = {line[4:].strip().lower() for line in (ROOT / "docs" / "runbook.md").read_text().splitlines()
                if line.startswith("### ")}  # fmt: skip
    for alert in alerts:
        assert f"alertname: {alert['alert']}\n" in tests, alert["alert"]
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert page == "docs/runbook.md" and anchor == alert["alert"].lower() and anchor in headings


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_what_its_source_says_and_grafanas_model_knows_it(path: Path) -> None:
    assert path.read_text() == dashboards.texts()[path], "make pages"
    document = json.loads(path.read_text())
    known = json.loads(json.dumps(Schema.from_json(document), default=lambda each: each.to_json()))
    assert not list(_lost(document, known)), "Grafana's own model of a dashboard drops these"


def _lost(given: Any, known: Any, where: str = "") -> Any:
    """Paths of what a round trip through a model loses."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key in known:
                yield from _lost(value, known[key], f"{where}/{key}")
            elif value not in ({}, []):
                yield f"{where}/{key}"
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from _lost(value, known[index], f"{where}/{index}")
    elif given != known:
        yield where


@pytest.mark.long
async def test_every_panel_shows_something_of_a_device_that_runs(tmp_path: Path, worker_id: str) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes(NAME, scaler(2), "model.onnx")
    origin = web.AppRunner(application(shop.path), access_log=None)
    await origin.setup()
    await web.TCPSite(origin, "127.0.0.1", 0).start()
    device_port = free_port()
    async with cloud(tmp_path, worker_id) as made, ServiceClient(made.hub.service) as client:
        text = f'connection_string = "{made.hub.add_device("pi")}"'
        await made.start(shop.trust, text, f'metrics_address = "127.0.0.1:{device_port}"')
        with InferProcess(made.data.root) as infer:
            made.wish(1, f"http://127.0.0.1:{origin.addresses[0][1]}")
            await made.serves(1)
            answers = Answers(0.2)
            access = Access(loopback=False, proxies=frozenset({"192.0.2.1"}), scraper="t" * 20)
            page = Dashboard(client, Views(client, None, answers), answers, access, Audit(tmp_path / "audit"))
            runner = web.AppRunner(page.application(), access_log=None, shutdown_timeout=0.2)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            jobs: dict[str, dict[str, Any]] = {
                "fleet": {"static_configs": [{"targets": [f"127.0.0.1:{runner.addresses[0][1]}"]}],
                          "authorization": {"credentials": "t" * 20}},
                "device": {"static_configs": [{"targets": [f"127.0.0.1:{device_port}"]}]},
                "inference": {"static_configs": [{"targets": [infer.address]}]},
            }  # fmt: skip
            async with prometheus(tmp_path, jobs) as scraper:
                await _ask(infer.url)
                await scraper.until("sum(modelsync_inference_requests_total{status='200'})")
                await _ask(infer.url)
                await scraper.until('modelsync_fleet_version_devices{version="1"} == 1')
                for path in DASHBOARDS:
                    for panel in json.loads(path.read_text())["panels"]:
                        for target in panel["targets"]:
                            expression = re.sub(r"\$(instance|model)", ".*", target["expr"])
                            may = any(name in expression for name in MAY_BE_EMPTY)
                            found = await (scraper.query if may else scraper.until)(expression)
                            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                            for series in found:
                                assert labels <= series["metric"].keys(), (expression, series["metric"])
            await runner.cleanup()
    await origin.cleanup()


async def _ask(url: str) -> None:
    body = {"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}]}
    async with aiohttp.ClientSession() as session:
        for _ in range(5):
            async with session.post(f"{url}/v2/models/{NAME}/infer", json=body) as response:
                assert response.status == 200, await response.text()
