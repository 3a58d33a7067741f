"""docs/azure.md: every command that needs no cloud runs as it stands, against Azurite and the local hub."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.addresses import loopback_address
from tests.support.azurite import ACCOUNT

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "azure.md"
_BLOCK = re.compile(r"<!-- tested by tests/azure/test_azure_page.py -->\n```sh\n(.*?)```", re.DOTALL)


def test_every_command_outside_the_tested_blocks_needs_the_cloud() -> None:
    text = _BLOCK.sub("", PAGE.read_text())
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    assert commands and all(line.startswith("az ") for line in commands)


async def test_the_page_runs_from_an_empty_account_to_a_served_model(
    tmp_path: Path, worker_id: str, azurite_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = "set -eu\n" + "\n".join(_BLOCK.findall(PAGE.read_text()))
    async with Hub(tmp_path / "hub", HubAddress(loopback_address(worker_id), service_port=0)) as hub:
        (tmp_path / "connection-string").write_text(hub.add_device("pi"))
        # A local hub's certificate is not in the system's store: the one line that differs.
        line = 'connection_string_file = "connection-string"\n'
        assert line in script
        script = script.replace(line, f'{line}ca = "{hub.ca_path}"\n')
        script = script.replace("/models\n", f"/models{os.getpid()}\n", 1)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script),
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "AZURE_STORAGE_CONNECTION_STRING": azurite_service,
                "MODELSYNC_SERVICE": str(hub.service),
                "ACCOUNT": ACCOUNT,
                "DEVICE": "pi",
            },
            stdout=(tmp_path / "out").open("wb"),
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(240):
                code = await process.wait()
            assert code == 0, (tmp_path / "out").read_text()
            served = tmp_path / "data" / "models" / "anomaly" / "current" / "model.onnx"
            assert served.read_bytes() == (ROOT / "examples" / "anomaly" / "v2" / "model.onnx").read_bytes()
            assert "was pushed" in (tmp_path / "out").read_text()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
