"""One trace from publish to swap: what a collector gets of a real publication, a real twin and a real device."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire

from modelsync_protocol import twin
from modelsync_protocol.errors import UsageError
from modelsync_server.origin.origin import application
from modelsync_server.tracing import spans, traced
from modelsync_server.tracing.spans import Place
from tests.support.azure_world import NAME, cloud
from tests.support.shop import Shop

COMMAND = Path(sys.executable).with_name("modelsync")
CI = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Collector:
    """Takes OTLP over HTTP. `spans` by id, with the service that each is of."""

    url: str = ""
    spans: dict[bytes, tuple[Wire, str]] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        for group in message.resource_spans:
            [service] = [each.value.string_value for each in group.resource.attributes if each.key == "service.name"]
            for scope in group.scope_spans:
                self.spans |= {span.span_id: (span, service) for span in scope.spans}
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def _modelsync(collector: str, *arguments: str, code: int = 0, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector, **environment},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == code, (out, err)
    return (out if code == 0 else err).decode()


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_publish_twin_and_device_are_one_trace(tmp_path: Path, worker_id: str, collector: Collector) -> None:
    shop = await Shop.open(tmp_path)
    origin = web.AppRunner(application(shop.path), access_log=None)
    await origin.setup()
    await web.TCPSite(origin, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{origin.addresses[0][1]}"
    (tmp_path / "model.bin").write_bytes(b"model" * 1000)
    publish = ("publish", str(shop.path), NAME, str(tmp_path / "model.bin"), "--keys", str(shop.keys))
    published = json.loads(await _modelsync(collector.url, *publish, "--trace", "--json", TRACEPARENT=CI))
    parent = published["traceparent"]
    assert parent.startswith(CI[:36]), "the pipeline's own trace goes on"
    shown = await _modelsync(collector.url, "show", str(shop.path), NAME, "1", "--json")
    assert parent in shown, "it is signed with the version"
    async with cloud(tmp_path, worker_id) as made:
        await made.start(shop.trust)
        await made.until(lambda: "modelsync" in made.hub.reported("pi"), "a report")
        where = ("--state", str(tmp_path / "hub"))
        assert "nothing is traced" in await _modelsync(collector.url, "trace", "pi", *where)
        patch = json.dumps({"modelsync": {"origin": address, "models": {NAME: {"version": 1}}}})
        await _modelsync(collector.url, "twin", "set", "pi", patch, "--trace", parent, *where)
        await made.serves(1)
        await made.until(lambda: "trace" in made.model(), "the stages")
        for _ in range(2):  # the second time makes no second span
            told = json.loads(await _modelsync(collector.url, "trace", "pi", *where, "--json"))
        assert told["traces"] == [CI[3:35]]
        # What nobody asks for costs nothing: the next update reports no stages.
        (tmp_path / "model.bin").write_bytes(b"model" * 999 + b"other")
        await _modelsync(collector.url, *publish)
        made.hub.set_desired("pi", {"modelsync": {"models": {NAME: {"version": 2, "trace": None}}}})
        await made.serves(2)
        await made.until(lambda: "trace" not in made.model(), "no stages")
    await origin.cleanup()
    by_name = {span.name: (span, service) for span, service in collector.spans.values()}
    assert len(by_name) == len(collector.spans), "each span once"
    assert {span.trace_id.hex() for span, _ in by_name.values()} == {CI[3:35]}
    order = [f"publish {NAME}", "twin set", f"update {NAME}", "resolving"]
    above = CI[36:52]
    for name in order:
        span, _ = by_name[name]
        assert span.parent_span_id.hex() == above, name
        above = span.span_id.hex()
    whole, service = by_name[f"update {NAME}"]
    assert service == "modelsyncd pi" and whole.status.code == 0
    stages = [span for span, _ in by_name.values() if span.parent_span_id == whole.span_id]
    assert {"resolving", "activating"} <= {span.name for span in stages}
    stages.sort(key=lambda span: span.start_time_unix_nano)
    assert stages[0].start_time_unix_nano == whole.start_time_unix_nano
    assert stages[-1].end_time_unix_nano == whole.end_time_unix_nano
    for one, following in itertools.pairwise(stages):
        assert one.end_time_unix_nano == following.start_time_unix_nano, "no time is lost between stages"


async def test_what_cannot_be_traced_is_one_sentence(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"model")
    publish = ("publish", str(shop.path), NAME, str(tmp_path / "model.bin"), "--keys", str(shop.keys), "--trace")
    said = await _modelsync("http://127.0.0.1:9", *publish, code=2, TRACEPARENT="nonsense")
    assert "traceparent" in said
    with pytest.raises(UsageError, match="no update"):
        traced.asking({"modelsync": {"origin": "http://x"}}, CI)


PLACE = Place.parse(CI)
STEPS = [["resolving", 1000], ["fetching", 1400], ["active", 3000]]


@pytest.mark.parametrize(
    "told",
    [
        None, "x", 5, [], {}, {"parent": 5, "steps": STEPS}, {"parent": "00-0-0-01", "steps": STEPS},
        {"parent": CI}, {"parent": CI, "steps": "resolving"}, {"parent": CI, "steps": {}},
        {"parent": CI, "steps": [["resolving"], [5, 5], ["x", -1], ["x", 2.5], ["x" * 99, 1], None]},
    ],
)  # fmt: skip
def test_a_device_that_reports_nonsense_makes_no_span(told: Any) -> None:
    assert list(spans.of_device("d", NAME, {"trace": told})) == []


def test_an_update_that_failed_is_a_span_that_failed() -> None:
    model = {"trace": {"parent": CI, "steps": [*STEPS[:2], ["quarantined", 2000]]}, "error": {"code": "probe"}}
    whole, *stages = spans.of_device("d", NAME, model)
    assert whole.failed == "probe" and (whole.begin, whole.end) == (1000, 2000) and len(stages) == 2
    assert whole.parent == PLACE and all(stage.parent == whole.place for stage in stages)
    again = list(spans.of_device("d", NAME, model))
    assert again[0].place == whole.place and next(iter(spans.of_device("e", NAME, model))).place != whole.place


def test_a_wish_with_another_trace_is_the_same_wish() -> None:
    def wish(trace: object) -> twin.Desired:
        return twin.parse_desired({"modelsync": {"models": {NAME: {"version": 1, "trace": trace}}}})

    assert wish(CI).models == wish("").models and wish(CI).models[NAME].trace == CI
    for wrong in (5, "x", CI.upper(), CI + "\n"):
        assert wish(wrong).problems and wish(wrong).models[NAME].version == 1
