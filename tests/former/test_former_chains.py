"""A daemon of a former version at a store whose later models have chains of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_protocol import trust
from modelsync_server.store import open_store
from modelsync_server.trust import NewTarget, Repository
from tests.former.test_former_daemon import DAEMON, SCRIPTS, _document, _former_environment, former

__all__ = ["former"]


def _publish(folder: Path, name: str, content: bytes) -> None:
    (folder / "model.bin").write_bytes(content)
    command = (str(SCRIPTS / "modelsync"), "publish", "store", name, "model.bin", "--keys", "keys", "--json")
    _document(*command, cwd=folder)


async def _sign(folder: Path, models: list[str]) -> None:
    repository = await Repository.open(open_store(str(folder / "store")), str(folder / "keys"))
    await repository.add_targets([NewTarget(name, 1, "f" * 64, 1000) for name in models])


@pytest.mark.long
def test_a_former_daemon_is_served_beside_models_that_it_cannot_read(former: Path, tmp_path: Path) -> None:
    subprocess.run([SCRIPTS / "modelsync", "init", "store", "--keys", "keys"], cwd=tmp_path, check=True)
    _publish(tmp_path, "first", b"one" * 500)
    asyncio.run(_sign(tmp_path, [f"other-{number:02d}" for number in range(trust.SHARED_MODELS - 1)]))
    _publish(tmp_path, "later", b"late" * 500)
    server = subprocess.Popen([SCRIPTS / "modelsync", "serve", "store"], cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        origin = json.loads(server.stdout.readline())["url"]

        def old(name: str, data: str = "old") -> subprocess.CompletedProcess[str]:
            where = ("pull", name, "--origin", origin, "--trust", "keys/root.json", "--json", "--data", data)
            command = (sys.executable, "-c", DAEMON, *where)
            environment = _former_environment(former)
            return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

        assert json.loads(old("first").stdout)["version"] == 1
        refused = old("later")
        assert refused.returncode == 3 and "signs no model 'later'" in refused.stderr
        _publish(tmp_path, "later", b"late" * 501)
        _publish(tmp_path, "first", b"two!" * 500)
        assert json.loads(old("first").stdout)["version"] == 2, "meeting an own chain's bundle has led it nowhere"
        new = (str(SCRIPTS / "modelsyncd"), "pull", "later", "--origin", origin, "--trust", "keys/root.json", "--json")
        assert _document(*new, "--data", "new", cwd=tmp_path)["version"] == 2
        # The program is updated in place, and then the store: it goes on from the shared chain that it has kept.
        subprocess.run([SCRIPTS / "modelsync", "upgrade-store", "store", "--keys", "keys"], cwd=tmp_path, check=True)
        _publish(tmp_path, "first", b"three" * 500)
        refused = old("first")
        assert refused.returncode == 3 and "signs no model 'first'" in refused.stderr
        updated = (str(SCRIPTS / "modelsyncd"), "pull", "first", "--origin", origin, "--trust", "keys/root.json")
        assert _document(*updated, "--json", "--data", "old", cwd=tmp_path)["version"] == 3
    finally:
        server.terminate()
        server.wait()
