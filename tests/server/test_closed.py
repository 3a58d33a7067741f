"""An artifact that points out of itself is refused by the publisher, by the daemon and by the inference server."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from modelsync_daemon import pull, status
from modelsync_daemon.build.closed import refusal_of
from modelsync_daemon.transfer.errors import NotClosed
from modelsync_daemon.workers.messages import error_of, kind_of
from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.model import closed as inference_closed
from modelsync_inference.model.artifact import open_artifact
from modelsync_inference.model.pointer import VersionRef
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.cli import app
from modelsync_server.publish.artifact import snapshot
from modelsync_server.publish.closed import check_closed, check_hard_links
from tests.support.datadir import DataDir
from tests.support.hostile_artifacts import Files, artifacts, closed
from tests.support.pulling import Device
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

HOSTILE = dict(artifacts())


def written(folder: Path, files: Files) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_all_three_places_refuse(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "a", HOSTILE[name])
    with snapshot(folder) as artifact:
        with pytest.raises(UsageError, match="not closed"):
            check_closed(artifact)
        assert "not closed" in (refusal_of(artifact.manifest, folder) or "")
    data = DataDir(tmp_path / "data")
    installed = data.install(1, HOSTILE[name])
    with pytest.raises(ModelRefusedError, match="not closed"):
        open_artifact(data.folder, VersionRef(installed.version, installed.digest, installed.path))


def _descriptors() -> int:
    """How many are open; some may have high numbers."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_tree_may_have_more_files_than_a_worker_may_have_descriptors(tmp_path: Path) -> None:
    """A worker may have 1,024; an environment of 30,000 files needed one for each."""
    names = [f"p{number % 7}/{number}{suffix}" for number in range(60) for suffix in (".py", ".onnx", ".json", ".bin")]
    folder = written(tmp_path / "a", dict.fromkeys(names, b"{}"))
    with snapshot(folder) as artifact:
        manifest = artifact.manifest
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_descriptors() + 20, hard))
    try:
        assert refusal_of(manifest, folder) is None
        inference_closed.check_closed(folder, folder / names[0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_device_refuses_what_a_careless_publisher_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await Shop.open(tmp_path)
    folder = written(tmp_path / "a", HOSTILE["location-climbing"])
    with pytest.raises(UsageError, match="climbs"):
        await shop.publish("m", folder)
    with monkeypatch.context() as careless:
        careless.setattr("modelsync_server.publish.publisher.check_closed", lambda artifact: None)
        await shop.publish("m", folder)
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        with pytest.raises(NotClosed, match="climbs") as caught:
            await device.pull("m", origin.url)
    error = caught.value
    told = error_of(kind_of(error), str(error), {"version": error.version, "digest": error.digest})
    assert isinstance(told, NotClosed) and (told.version, told.exit_code) == (1, 3)
    assert device.leftovers() == [] and device.data.all_installed() == []


async def test_a_pull_by_hand_quarantines_it_and_does_not_pay_for_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await Shop.open(tmp_path)
    monkeypatch.setattr("modelsync_server.publish.publisher.check_closed", lambda artifact: None)
    await shop.publish("m", written(tmp_path / "a", HOSTILE["location-climbing"]))
    data = tmp_path / "device"
    async with ScriptedOrigin(shop.path) as origin:
        with pytest.raises(RefusedError, match="climbs"):
            await asyncio.to_thread(pull, "m", origin.url, data, trust=shop.trust)
        assert status(data).models["m"].state == "quarantined"
        with pytest.raises(RefusedError, match="quarantined"):
            await asyncio.to_thread(pull, "m", origin.url, data)


async def test_weights_beside_the_model_keep_working(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    await shop.publish("m", written(tmp_path / "a", closed()))
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        prepared = await device.pull("m", origin.url)
    folder = device.data.model_dir("m")
    artifact = open_artifact(folder, VersionRef(1, prepared.digest, str(prepared.path.relative_to(folder))))
    answer = OnnxRuntime().load(artifact.model).run({"X": np.array([1], np.float32)}, ["y"])
    assert answer["y"].tolist() == [8.0]


def test_inspect_says_what_is_in_it_and_its_exit_code_fits_a_pipeline(tmp_path: Path) -> None:
    run = CliRunner()
    good = written(tmp_path / "good", closed())
    found = json.loads(run.invoke(app, ["inspect", str(good), "--json"]).stdout)
    assert found["closed"] and found["refers"][0]["text"] == "weights/w.bin" and not found["code"]
    bad = run.invoke(app, ["inspect", str(written(tmp_path / "bad", HOSTILE["location-climbing"]))])
    assert bad.exit_code == 3 and "'../../../../etc/passwd' climbs" in bad.stdout
    (tmp_path / "m.pkl").write_bytes(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00idtR.")
    assert run.invoke(app, ["inspect", str(tmp_path / "m.pkl")]).exit_code == 0
    pickled = run.invoke(app, ["inspect", str(tmp_path / "m.pkl"), "--forbid-code"])
    assert pickled.exit_code == 3 and "imports os.system" in pickled.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: making another user's file needs root")
def test_a_hard_link_to_another_users_file_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    os.chown(secret, 12345, -1)
    folder = written(tmp_path / "a", closed())
    check_hard_links(folder)
    (folder / "w.bin").hardlink_to(secret)
    with pytest.raises(UsageError, match="hard link"):
        check_hard_links(folder)
