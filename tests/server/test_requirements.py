"""What the publisher reads from a model and signs: by format, from real files; said anew; its bytes in a bundle."""

from __future__ import annotations

import contextlib
import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from typer.testing import CliRunner

from modelsync_protocol import bundle, names, trust
from modelsync_protocol.errors import FormatError
from modelsync_server.cli import app
from modelsync_server.publish.artifact import snapshot
from modelsync_server.requirements import requirements_of, tflite
from modelsync_server.store import open_store
from modelsync_server.trust import read_catalogue
from tests.support import gguf_files
from tests.support.corpus import corpus_folder
from tests.support.shop import Shop
from tests.support.tiny_models import scaler


def read(path: Path, probe: Path | None = None) -> Mapping[str, str]:
    with snapshot(path, probe) as artifact:
        return requirements_of(artifact.manifest, artifact.stream)


def written(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def onnx_model(opsets: Mapping[str, int], domain: str = "", ir: int = 8, inner: bool = False) -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    node = helper.make_node("Neg", ["x"], ["y"], domain=domain)
    if inner:
        branch = helper.make_graph([node], "branch", [], ends[1:])
        node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    imports = [helper.make_opsetid(key, number) for key, number in opsets.items()]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=imports)
    model.ir_version = ir
    data: bytes = model.SerializeToString()
    return data


def test_onnx_says_its_ir_version_and_the_opsets_that_it_uses(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.onnx", onnx_model({"": 21}, ir=10))) == {"onnx.opset": "21", "onnx.ir": "10"}
    assert read(written(tmp_path, "b.onnx", scaler(3))) == {"onnx.opset": "17", "onnx.ir": "10"}, "imported, not used"
    own = onnx_model({"": 17, "com.acme": 2, "com.unused": 5}, "com.acme", inner=True)
    assert read(written(tmp_path, "c.onnx", own))["onnx.opset.com.acme"] == "2"
    assert "onnx.opset.com.unused" not in read(tmp_path / "c.onnx")
    used = onnx_model({"ai.onnx": 15, "ai.onnx.ml": 3}, "ai.onnx.ml")
    assert read(written(tmp_path, "d.onnx", used))["onnx.opset.ai.onnx.ml"] == "3"
    assert read(written(tmp_path, "e.onnx", b"no model")) == {}


def test_several_files_need_what_each_of_them_needs(tmp_path: Path) -> None:
    written(tmp_path, "tree/a.onnx", onnx_model({"": 15}, ir=9))
    written(tmp_path, "tree/b.onnx", onnx_model({"": 21}, ir=8))
    assert read(tmp_path / "tree") == {"onnx.opset": "21", "onnx.ir": "9"}


def trained() -> LogisticRegression:
    return LogisticRegression().fit(np.arange(8.0).reshape(4, 2), [0, 1, 0, 1])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_says_which_scikit_learn_wrote_it(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(trained(), protocol=protocol)
    assert read(written(tmp_path, "m.pkl", data)) == {"package:scikit-learn": f"=={sklearn.__version__}"}
    other = data.replace(sklearn.__version__.encode(), b"1.2.3".ljust(len(sklearn.__version__), b"0"))
    assert other != data
    found = read(written(tmp_path, "o.pkl", other))
    assert found["package:scikit-learn"].startswith("==1.2.3"), found


def test_joblib_files_say_so_too_compressed_or_not(tmp_path: Path) -> None:
    model = DecisionTreeClassifier().fit(np.random.default_rng(3).normal(size=(200, 3)), np.arange(200) % 2)
    for name, compress in (("plain.joblib", 0), ("packed.joblib", 3)):
        joblib.dump(model, tmp_path / name, compress=compress)
        assert read(tmp_path / name) == {"package:scikit-learn": f"=={sklearn.__version__}"}, name


def test_with_a_probe_any_scikit_learn_may_do(tmp_path: Path) -> None:
    path = written(tmp_path, "m.pkl", pickle.dumps(trained()))
    probe = written(tmp_path, "probe.json", '{"format": 1, "cases": [{}]}')
    assert read(path, probe) == {"package:scikit-learn": "*"}


def test_gguf_openvino_and_safetensors(tmp_path: Path) -> None:
    data = gguf_files.gguf({"w": ("f32", (4,), bytes(16))}, pairs={"tokenizer.list": gguf_files.strings(["a", "b"])})
    assert read(written(tmp_path, "m.gguf", data)) == {"gguf.version": "3", "gguf.architecture": "llama"}
    assert read(written(tmp_path, "n.gguf", b"GGUF" + struct.pack("<I", 9))) == {"gguf.version": "9"}
    xml = '<?xml version="1.0"?>\n<net name="m" version="11">\n<layers/></net>'
    assert read(written(tmp_path, "m.xml", xml)) == {"openvino.ir": "11"}
    assert read(written(tmp_path, "other.xml", "<config/>")) == {}
    assert read(written(tmp_path, "m.safetensors", struct.pack("<Q", 2) + b"{}")) == {}


def test_a_scoring_script_needs_the_packages_of_its_list(tmp_path: Path) -> None:
    lines = "numpy>=1.26,<2  # arrays\nPandas\n--hash=x\n-r other.txt\ntorch @ https://example.com/t.whl\nnot a line!\n"
    written(tmp_path, "tree/requirements.txt", lines)
    assert read(tmp_path / "tree") == {}, "a list without a script says nothing of a device"
    written(tmp_path, "tree/score.py", "def init(): ...\n")
    assert read(tmp_path / "tree") == {"package:numpy": "<2,>=1.26", "package:pandas": "*"}


@pytest.mark.skipif(corpus_folder() is None, reason="the corpus of real models is not here")
@pytest.mark.parametrize(("pair", "release"), [("esphome_oknabu_v1", "2.6"), ("haver_c100q_0164-0165", "1.14")])
def test_real_tflite_files_say_their_release_and_their_operators_agree(
    pair: str, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = corpus_folder()
    assert folder is not None
    data = memoryview((folder / pair / "new.tflite").read_bytes())
    assert dict(tflite.read(data)) == {"tflite.runtime": f">={release}.0"}
    blind = bytes(data).replace(b"min_runtime_version", b"min_runtime_versiox")
    assert dict(tflite.read(memoryview(blind))) == {"tflite.runtime": f">={release}"}
    for end in range(8, 400, 7):
        with contextlib.suppress(FormatError):
            list(tflite.read(data[:end]))


async def test_what_is_read_is_signed_and_can_be_said_anew(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    model = written(tmp_path, "model.onnx", onnx_model({"": 17}))
    first = await shop.publish("m", model)
    assert first.requires == {"onnx.opset": "17", "onnx.ir": "8"}

    async def signed() -> Mapping[int, Mapping[str, str]]:
        return (await read_catalogue(open_store(str(shop.path)))).model("m").requires

    again = await shop.publish("m", model)
    assert not again.fresh and await signed() == {1: first.requires}
    more = await shop.publish("m", model, requires={"memory": "1GiB", "onnx.opset": "16"})
    assert not more.fresh and more.requires == {"onnx.opset": "16", "onnx.ir": "8", "memory": "1GiB"}
    assert (await shop.publish("m", model)).requires == more.requires, "what was said stands"
    assert (await shop.publish("m", model, requires={"arch": "aarch64"}, derive=False)).requires == {"arch": "aarch64"}
    assert (await shop.publish("m", model, derive=False)).requires == {} and await signed() == {}


async def test_versions_keep_their_own_when_they_move_into_the_archive_or_are_withdrawn(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    for opset in range(9, 22):
        await shop.publish("m", written(tmp_path, "model.onnx", onnx_model({"": opset})))
    repository = await shop.repository()
    catalogue = await repository.withdraw("m", 12)
    wanted = {number: str(number + 8) for number in range(1, 14) if number != 12}
    assert {number: needs["onnx.opset"] for number, needs in catalogue.model("m").requires.items()} == wanted


async def test_it_costs_a_check_in_sixteen_bytes_at_the_most_and_nothing_where_nothing_is_required(
    tmp_path: Path,
) -> None:
    """The same store, signed with and without: what differs is the field alone."""
    shop = await Shop.open(tmp_path)
    for number in range(3):
        await shop.publish_bytes("plain", bytes(range(100)) + b"x" * number)
    await shop.publish("m", written(tmp_path, "model.onnx", onnx_model({"": 17})))
    read = bundle.decode((shop.path / names.bundle_object("m")).read_bytes())
    role = json.loads(read.role)
    assert role["signed"].pop(trust.REQUIRES) == "1:o17i8"
    bare = bundle.Bundle(
        read.root_version, read.targets_version, read.timestamp, read.snapshot,
        json.dumps(role, sort_keys=True, separators=(",", ":")).encode(), read.offers,
    )  # fmt: skip
    assert 0 < len(bundle.encode(read)) - len(bundle.encode(bare)) <= 16
    plain = bundle.decode((shop.path / names.bundle_object("plain")).read_bytes())
    assert trust.REQUIRES.encode() not in plain.role


def test_inspect_says_it_before_anything_is_published(tmp_path: Path) -> None:
    path = written(tmp_path, "m.onnx", onnx_model({"": 19}))
    assert json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)["requires"] == read(path)
    said = CliRunner().invoke(app, ["inspect", str(path)]).stdout
    assert "  requires: ONNX IR version 8, ONNX opset 19\n" in said
