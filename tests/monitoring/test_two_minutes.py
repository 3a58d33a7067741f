"""docs/monitoring.md: its path runs as it stands, with a real Prometheus."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.addresses import free_port, loopback_address
from tests.support.tools import needs

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"<!-- tested by tests/monitoring/test_two_minutes.py -->\n```sh\n(.*?)```", re.DOTALL)


@pytest.mark.long
async def test_the_two_minute_path_ends_with_the_fleet_in_prometheus(tmp_path: Path, worker_id: str) -> None:
    needs("prometheus", "curl")
    [script] = _BLOCK.findall((ROOT / "docs" / "monitoring.md").read_text())
    for port in ("8090", "9090"):
        assert port in script
        script = script.replace(port, str(free_port()))
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    async with Hub(tmp_path / "hub", HubAddress(loopback_address(worker_id), service_port=0)) as hub:
        hub.add_device("pi")
        with (tmp_path / "out").open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *("bash", "-euc", script), cwd=tmp_path, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                assert await process.wait() == 0, (tmp_path / "out").read_text()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
