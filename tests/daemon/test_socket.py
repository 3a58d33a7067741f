"""The daemon's Unix socket: status, operations, inference processes' registrations and reports, metrics, its mode."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.local import socket_client
from modelsync_daemon.local.socket_api import SocketApi
from modelsync_daemon.local.socket_client import NoDaemon
from modelsync_protocol.errors import RefusedError, UsageError
from tests.daemon.fakes import NAME, Device, device, reference
from tests.support.waiting import PATIENCE_SECONDS


@asynccontextmanager
async def _served(root: Path, metrics: bool = True) -> AsyncIterator[Device]:
    async with device(root) as pi:
        api = SocketApi(pi.resident.commands, pi.resident.processes, pi.data.socket, metrics=metrics)
        await api.start()
        try:
            yield pi
        finally:
            await api.stop()


async def _call(pi: Device, method: str, target: str, document: Any = None) -> Any:
    return await asyncio.to_thread(socket_client.call, pi.data.socket, method, target, document)


async def _raw(pi: Device, request: str) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_unix_connection(str(pi.data.socket))
    writer.write(request.encode())
    reader._keep = writer  # type: ignore[attr-defined]  # closed with the reader
    return reader


async def test_only_owner_and_group_may_connect(tmp_path: Path) -> None:
    async with _served(tmp_path) as pi:
        assert pi.data.socket.stat().st_mode & 0o777 == 0o660
    assert not pi.data.socket.exists()


async def test_status_and_operations(tmp_path: Path) -> None:
    async with _served(tmp_path) as pi:
        for version in (1, 2):
            pi.wish(version)
            await pi.serves(version)
        status = await _call(pi, "GET", "/v1/status")
        assert set(status) == {"models", "daemon", "ledger"}
        assert set(status["models"][NAME]) == {
            "version", "digest", "generation", "state", "since", "desired", "previous", "progress", "bytes",
            "error", "hold", "inference",
        }  # fmt: skip
        assert (status["models"][NAME]["previous"], status["daemon"]["connected"]) == (1, True)
        back = await _call(pi, "POST", "/v1/rollback", {"model": NAME})
        assert back == {"model": NAME, "version": 1, "digest": reference(1).digest, "generation": 3}
        assert await _call(pi, "POST", "/v1/release", {"model": NAME}) == {}
        await pi.serves(2)
        assert await _call(pi, "POST", "/v1/hold", {"model": NAME}) == {}
        assert pi.row().hold
        reads = pi.plane.reads
        assert await _call(pi, "POST", "/v1/sync") == {}
        await pi.until(lambda: pi.plane.reads > reads)


@pytest.mark.parametrize("document", [None, [], {"model": 5}, {"model": "../x"}, {}])
async def test_a_wrong_request_is_explained(tmp_path: Path, document: Any) -> None:
    async with _served(tmp_path) as pi:
        with pytest.raises(UsageError):
            await _call(pi, "POST", "/v1/rollback", document)
        with pytest.raises(RefusedError, match="not a model of this device"):
            await _call(pi, "POST", "/v1/rollback", {"model": "unknown"})


async def test_an_inference_process_over_the_socket(tmp_path: Path) -> None:
    async with _served(tmp_path) as pi:
        watch = await _raw(pi, f"GET /v1/models/{NAME}/watch?pid=77 HTTP/1.1\r\nHost: x\r\n\r\n")
        await pi.until(lambda: pi.resident.processes.registered(NAME) == {77})
        pi.wish(1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b'"candidate"' not in await watch.readline():
                pass
        candidate = pi.data.read_pointer(NAME, "candidate")
        assert candidate is not None
        report = {
            "pid": 77, "pointer": "candidate", "generation": candidate.generation, "version": 1,
            "digest": candidate.digest, "state": "ready", "reason": None, "load_ms": 5, "probe_ms": 1, "requests": 0,
            "errors": 0, "rss_bytes": 1,
        }  # fmt: skip
        await _call(pi, "POST", f"/v1/models/{NAME}/report", report)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b'"current"' not in await watch.readline():
                pass
        current = pi.current()
        assert current is not None and current.generation == candidate.generation
        await _call(pi, "POST", f"/v1/models/{NAME}/report", {**report, "pointer": "current", "state": "serving"})
        await pi.serves(1)
        wrong_reports: list[Any] = [
            {}, {**report, "state": "happy"}, {**report, "digest": "x"}, {**report, "requests": -1}, [],
        ]  # fmt: skip
        for wrong in wrong_reports:
            with pytest.raises(UsageError):
                await _call(pi, "POST", f"/v1/models/{NAME}/report", wrong)
        watch._keep.close()  # type: ignore[attr-defined]
        await pi.until(lambda: not pi.resident.processes.registered(NAME))


async def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    async with _served(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        reader = await _raw(pi, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        assert f'modelsync_model_version{{model="{NAME}"}} 1.0' in text
        assert f'modelsync_model_state{{model="{NAME}",state="active"}} 1.0' in text
        assert "modelsync_hub_connected 1.0" in text
        assert 'modelsync_wire_bytes{direction="received",period="day"}' in text
        reader._keep.close()  # type: ignore[attr-defined]


async def test_metrics_can_be_off(tmp_path: Path) -> None:
    async with _served(tmp_path, metrics=False) as pi:
        reader = await _raw(pi, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 404 " in await reader.readline()
        await reader.read()
        reader._keep.close()  # type: ignore[attr-defined]


async def test_a_directory_with_a_long_name_works(tmp_path: Path) -> None:
    root = tmp_path / ("d" * 80) / ("e" * 80)
    async with _served(root) as pi:
        assert json.dumps(await _call(pi, "GET", "/v1/status"))


def test_without_a_daemon_there_is_a_word_for_it(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon):
        socket_client.call(tmp_path / "daemon.sock", "GET", "/v1/status")
