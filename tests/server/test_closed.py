"""An artifact that points out of itself is refused by the publisher, by the daemon and by the inference server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from modelsync_daemon.transfer.errors import NotClosed
from modelsync_inference.errors import ModelRefusedError
from modelsync_inference.model.artifact import open_artifact
from modelsync_inference.model.pointer import VersionRef
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from modelsync_protocol.errors import UsageError
from modelsync_server.cli import app
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


@pytest.fixture(scope="module")
def shop_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


@pytest.mark.parametrize("name", sorted(HOSTILE))
async def test_publisher_and_inference_refuse(tmp_path: Path, name: str) -> None:
    from modelsync_server.publish.artifact import snapshot
    from modelsync_server.publish.closed import check_closed

    with snapshot(written(tmp_path / "a", HOSTILE[name])) as artifact, pytest.raises(UsageError, match="not closed"):
        check_closed(artifact)
    data = DataDir(tmp_path / "data")
    installed = data.install(1, HOSTILE[name])
    with pytest.raises(ModelRefusedError, match="not closed"):
        open_artifact(data.folder, VersionRef(installed.version, installed.digest, installed.path))


async def test_a_device_refuses_what_a_careless_publisher_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All forms, published without the publisher's check, come to one device in one go."""
    shop = await Shop.open(tmp_path)
    device = Device(tmp_path / "device", shop.trust)
    with monkeypatch.context() as careless:
        careless.setattr("modelsync_server.publish.publisher.check_closed", lambda artifact: None)
        for name in sorted(HOSTILE):
            await shop.publish(name, written(tmp_path / "artifacts" / name, HOSTILE[name]))
    async with ScriptedOrigin(shop.path) as origin:
        for name in sorted(HOSTILE):
            with pytest.raises(NotClosed, match="not closed") as caught:
                await device.pull(name, origin.url)
            assert caught.value.version == 1 and caught.value.exit_code == 3
    assert device.leftovers() == [] and device.data.all_installed() == []


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
