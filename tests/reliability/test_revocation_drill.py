"""The drill of docs/operations.md, as it stands there; and a thief who can write to the origin too."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from modelsync_daemon import pull, status
from modelsync_protocol.errors import RefusedError
from modelsync_server import open_store
from modelsync_server.trust.rotation import rotate
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
_BLOCK = re.compile(r"<!-- tested by tests/reliability/test_revocation_drill.py -->\n```sh\n(.*?)```", re.DOTALL)


async def test_the_drill_brings_devices_back_and_leaves_the_thief_nothing(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("anomaly", b"good" * 2000)
    for name in ("bad", "worse"):
        (tmp_path / f"{name}.bin").write_bytes(name.encode() * 2000)
    device = tmp_path / "device"
    async with ScriptedOrigin(shop.path, parcels=True) as origin:
        await asyncio.to_thread(pull, "anomaly", origin.url, device, trust=shop.trust)
        (script,) = _BLOCK.findall(PAGE.read_text())
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"set -eu\n{script}"),
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "STORE": str(shop.path),
                "KEYS": str(shop.keys),
                "ORIGIN": origin.url,
                "DEVICE": str(device),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, said
        found = status(device).models["anomaly"]
        assert (found.version, found.state) == (1, "active")
        assert "anomaly 1 is active: held, 0 bytes in 0 requests" in said


async def test_a_device_that_saw_the_rotation_refuses_the_store_as_the_thief_shows_it(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("anomaly", b"good" * 2000)
    theirs = tmp_path / "theirs"
    shutil.copytree(shop.path, theirs)
    shutil.copytree(shop.keys, tmp_path / "stolen")
    (tmp_path / "bad.bin").write_bytes(b"bad" * 2000)
    device = tmp_path / "device"
    await rotate(await shop.repository(), "online")
    async with ScriptedOrigin(shop.path) as origin:
        await asyncio.to_thread(pull, "anomaly", origin.url, device, trust=shop.trust)
    thief = open_store(str(theirs), keys=str(tmp_path / "stolen"))
    await asyncio.to_thread(thief.publish, "anomaly", tmp_path / "bad.bin")
    async with ScriptedOrigin(theirs) as origin:
        with pytest.raises(RefusedError):
            await asyncio.to_thread(pull, "anomaly", origin.url, device)
    assert status(device).models["anomaly"].version == 1
