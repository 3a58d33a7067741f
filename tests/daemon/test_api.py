"""The device's library: `pull` and `status` as a program on the device calls them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import modelsync_daemon
from modelsync_daemon import hf_hub_download, pull, snapshot_download, status
from modelsync_protocol.errors import LocalError, RefusedError, UnreachableError, UsageError
from modelsync_server import open_store
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop


def test_importing_it_loads_nothing_and_its_names_are_there() -> None:
    code = "import sys, modelsync_daemon; print(*sys.modules); print(*dir(modelsync_daemon))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, names = (set(line.split()) for line in done.stdout.splitlines())
    assert not {name for name in loaded if name.startswith("modelsync_")} - {"modelsync_daemon"}
    assert not loaded & {"asyncio", "aiohttp", "sqlite3", "dataclasses", "tuf", "numpy"}
    assert names == set(modelsync_daemon.__all__)
    for name in modelsync_daemon.__all__:
        assert getattr(modelsync_daemon, name).__doc__, name
    with pytest.raises(AttributeError):
        _ = modelsync_daemon.nothing


async def test_pull_and_status_say_typed_what_the_command_prints(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    release = await shop.publish_bytes("anomaly", b"one" * 5000)
    told: list[tuple[int, int]] = []
    async with ScriptedOrigin(shop.path) as origin:
        pulled = await asyncio.to_thread(
            pull, "anomaly", origin.url, tmp_path / "data", trust=shop.trust, progress=lambda *each: told.append(each)
        )
        assert (pulled.name, pulled.version, pulled.digest) == ("anomaly", 1, release.digest)
        assert pulled.state == "active" and (pulled.path / "model.bin").read_bytes() == b"one" * 5000
        assert pulled.bytes == release.install_bytes and pulled.received > pulled.bytes and pulled.sent > 0
        assert told and told[-1][0] == told[-1][1]
        again = await asyncio.to_thread(pull, "anomaly", origin.url, str(tmp_path / "data"))
        assert (again.kind, again.bytes) == ("held", 0)
    found = status(tmp_path / "data")
    model = found.models["anomaly"]
    assert (model.version, model.path, model.state, model.error) == (1, pulled.path, "active", None)
    assert model.since is not None and model.since.tzinfo is not None
    assert found.pid is None and not found.connected and found.bytes_today == found.bytes_this_month > pulled.bytes
    assert found.document["models"]["anomaly"]["digest"] == release.digest


async def test_what_goes_wrong_is_one_of_our_errors(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("anomaly", b"one")
    data = tmp_path / "data"
    with pytest.raises(UsageError, match="to_thread"):
        pull("anomaly", "http://127.0.0.1:1", data, trust=shop.trust)
    with pytest.raises(UsageError, match="not a data directory"):
        status(data)
    async with ScriptedOrigin(shop.path) as origin:
        with pytest.raises(RefusedError, match="no version 9"):
            await asyncio.to_thread(pull, "anomaly", origin.url, data, trust=shop.trust, version=9)
        with pytest.raises(UsageError, match="not a model name"):
            await asyncio.to_thread(pull, "No Name", origin.url, data)
    with pytest.raises(UnreachableError, match="no modelsyncd listens"):
        status(data, running=True)
    from modelsync_daemon.disk.datadir import DataDir

    with DataDir(data).lock(), pytest.raises(LocalError, match="in use"):
        await asyncio.to_thread(pull, "anomaly", "http://127.0.0.1:1", data)


async def test_a_device_takes_versions_with_metadata_archived_ones_too_and_never_asks_for_it(
    tmp_path: Path,
) -> None:
    shop = await Shop.open(tmp_path)
    store = open_store(shop.path, keys=shop.keys)
    for number in range(1, 13):
        (tmp_path / "m.bin").write_bytes(b"%d" % number * 500)
        await store.aio.publish("m", tmp_path / "m.bin", metadata={"number": number, "text": "x" * 5000})
    data = tmp_path / "data"
    async with ScriptedOrigin(shop.path) as origin:
        for version in (12, 1, 11):
            pulled = await asyncio.to_thread(pull, "m", origin.url, data, trust=shop.trust, version=version)
            assert (pulled.path / "m.bin").read_bytes() == b"%d" % version * 500
        asked = [exchange.path for exchange in origin.exchanges]
        assert any("m.archive" in path for path in asked) and not any("releases" in path for path in asked)


async def test_what_hugging_face_users_call_brings_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("anomaly", b"one" * 500)
    await shop.publish_bytes("anomaly", b"two" * 500)
    for name in ("ORIGIN", "DATA", "TRUST"):
        monkeypatch.delenv(f"MODELSYNC_{name}", raising=False)
    with pytest.raises(UsageError, match="MODELSYNC_DATA"):
        snapshot_download("anomaly")
    async with ScriptedOrigin(shop.path) as origin:
        data = tmp_path / "data"
        old = await asyncio.to_thread(
            snapshot_download, "anomaly", revision="1", endpoint=origin.url, local_dir=data, trust=shop.trust
        )
        monkeypatch.setenv("MODELSYNC_ORIGIN", origin.url)
        monkeypatch.setenv("MODELSYNC_DATA", str(data))
        new = await asyncio.to_thread(hf_hub_download, "anomaly", "model.bin")
        assert Path(new).read_bytes() == b"two" * 500
        assert (Path(old) / "model.bin").read_bytes() == b"one" * 500, "who holds a path keeps what it named"
        with pytest.raises(UsageError, match=r"it has model\.bin"):
            await asyncio.to_thread(hf_hub_download, "anomaly", "config.json")
    assert hf_hub_download("anomaly", "model.bin", local_files_only=True) == new, "nobody is asked"
    for wrong in ({"revision": "main"}, {"revision": 1}, {"local_dir": str(tmp_path / "nowhere")}):
        with pytest.raises(UsageError):
            snapshot_download("anomaly", local_files_only=True, **wrong)
    with pytest.raises(UsageError):
        hf_hub_download("anomaly", "../../../etc/passwd", local_files_only=True)
    with pytest.raises(UsageError, match="not a model name"):
        snapshot_download("Org/Model")
