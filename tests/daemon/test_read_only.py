"""An SD card that the kernel remounts read-only after an error: it is said, what runs goes on, and it recovers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.local import socket_client
from tests.daemon.test_scrub import BYTES, followed, modelsyncd, reported
from tests.support.shop import Shop
from tests.support.waiting import until

_WRITES = "pwrite64,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,symlink,fdatasync,fsync,ftruncate"


async def test_a_read_only_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        assert not os.environ.get("CI"), "strace is missing"
        pytest.skip("LOUD: the read-only disk is not tested: strace is missing.")
    async with followed(tmp_path) as (data, _, hub):
        shop = Shop(tmp_path)
        await shop.publish_bytes("m", BYTES[::-1])
        pid = json.loads((await modelsyncd("status", "--data", str(data), "--json"))[1])["daemon"]["pid"]
        strace = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-p", str(pid), "-o", "/dev/null", "-e", f"inject={_WRITES}:error=EROFS"),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert strace.stderr is not None
            while b"attached" not in (line := await strace.stderr.readline()):
                assert line, "strace ended"
            log = tmp_path / "modelsyncd.log"
            hub.set_desired("pi", {"modelsync": {"models": {"m": {"version": 2}}}})
            await until(lambda: "can't be written" in log.read_text())
            assert "Traceback" not in log.read_text()
            status = socket_client.call(data / "daemon.sock", "GET", "/v1/status")
            assert status["models"]["m"]["version"] == 1, "what serves goes on"
        finally:
            strace.terminate()
            await strace.communicate()
        socket_client.call(data / "daemon.sock", "POST", "/v1/sync")
        await until(lambda: reported(hub).get("version") == 2 and reported(hub).get("state") == "active")
        assert (DataDir(data).model_dir("m") / "current" / "model.bin").read_bytes() == BYTES[::-1]
