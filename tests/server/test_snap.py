"""`modelsync snap`: fewer bytes within the drift that was asked for, and nothing else changed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import Numeral
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.rounding.snapped import shorter
from modelsync_server.rounding.snapper import snap_file
from tests.support.modelsync_command import runner
from tests.support.tiny_models import model_bytes

Weights = dict[str, NDArray[Any]]


def _weights(kind: Numeral) -> tuple[Weights, Weights]:
    rng = np.random.default_rng(11)
    old = {name: rng.normal(0, 0.05, (64, 96)) for name in ("still", "first", "second")}
    new = {name: w + (name != "still") * rng.normal(0, 2e-3, w.shape) for name, w in old.items()}
    old_bits, new_bits = (
        {name: numerals.narrowed(kind, w.reshape(-1)).reshape(w.shape) for name, w in side.items()}
        for side in (old, new)
    )
    return old_bits, new_bits


def _safetensors(kind: str) -> Callable[[Weights], bytes]:
    def write(weights: Weights) -> bytes:
        header: dict[str, Any] = {"__metadata__": {"by": "a test"}}
        place = 0
        for name, w in weights.items():
            header[name] = {"dtype": kind, "shape": w.shape, "data_offsets": [place, place + w.nbytes]}
            place += w.nbytes
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + b"".join(w.tobytes() for w in weights.values())

    return write


def _npz(weights: Weights) -> bytes:
    out = io.BytesIO()
    np.savez(out, **{name: w.view(np.float32) for name, w in weights.items()})  # type: ignore[arg-type]
    return out.getvalue()


def _npy(weights: Weights) -> bytes:
    out = io.BytesIO()
    np.save(out, np.concatenate([w.view(np.float32) for w in weights.values()]))
    return out.getvalue()


def _onnx(weights: Weights) -> bytes:
    floats = {name: w.view(np.float32) for name, w in weights.items()}
    return model_bytes(
        [
            helper.make_node("MatMul", ["X", "first"], ["a"]),
            helper.make_node("Tanh", ["a"], ["b"]),
            helper.make_node("Transpose", ["second"], ["t"]),
            helper.make_node("MatMul", ["b", "t"], ["c"]),
            helper.make_node("MatMul", ["c", "still"], ["y"]),
        ],
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 96])],
        [numpy_helper.from_array(w, name) for name, w in floats.items()],
    )


_FILES = [
    ("a.safetensors", numerals.F32, _safetensors("F32")),
    ("b.safetensors", numerals.BF16, _safetensors("BF16")),
    ("c.safetensors", numerals.F16, _safetensors("F16")),
    ("d.npz", numerals.F32, _npz),
    ("e.npy", numerals.F32, _npy),
    ("f.onnx", numerals.F32, _onnx),
]


@pytest.mark.parametrize(("name", "kind", "write"), _FILES)
def test_an_update_is_rounded_within_its_drift_and_nothing_else_changes(
    tmp_path: Path, name: str, kind: Numeral, write: Callable[[Weights], bytes]
) -> None:
    before, after = _weights(kind)
    old, new, out = (tmp_path / f"{side}-{name}" for side in ("old", "new", "out"))
    old.write_bytes(write(before))
    new.write_bytes(write(after))
    found = snap_file(old, new, out, drift=0.2, steps=(0.03, 0.1, 2))
    meant, made = new.read_bytes(), out.read_bytes()
    assert len(made) == len(meant) and made != meant
    assert found.chosen.drift <= 0.2 and found.chosen.bytes < found.exact_bytes
    assert found.measured == ("answers" if name == "f.onnx" else "weights")
    # Only tensors that moved have changed: with these bytes put back, the rest is equal. An .npy file is one tensor.
    for tensor in after if name == "e.npy" else ("first", "second"):
        place = meant.index(after[tensor].tobytes())
        made = made[:place] + after[tensor].tobytes() + made[place + after[tensor].nbytes :]
    if name == "d.npz":
        with np.load(out) as archive:  # checks the checksums
            rounded = {key: archive[key] for key in archive.files}
        assert write({key: w.view(np.uint32) for key, w in rounded.items()}) == out.read_bytes()
    else:
        assert made == meant
    drifts = [point.weights for point in found.points]
    assert drifts == sorted(drifts) and drifts[0] < drifts[-1]
    with pytest.raises(RefusedError, match="overwrites nothing"):
        snap_file(old, new, out, drift=0.2)


def test_the_drift_in_weights_is_what_the_files_say(tmp_path: Path) -> None:
    before, after = _weights(numerals.F32)
    for side, weights in (("old", before), ("new", after)):
        (tmp_path / f"{side}.npz").write_bytes(_npz(weights))
    found = snap_file(tmp_path / "old.npz", tmp_path / "new.npz", tmp_path / "out.npz", drift=0.1, steps=(0.1,))
    with np.load(tmp_path / "out.npz") as archive:
        made = np.concatenate([archive[name].astype(float) for name in ("first", "second")])
    meant, was = (
        np.concatenate([w[n].view(np.float32).astype(float) for n in ("first", "second")]) for w in (after, before)
    )
    assert found.chosen.drift == pytest.approx(np.linalg.norm(made - meant) / np.linalg.norm(meant - was), rel=1e-9)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("kind", [numerals.F32, numerals.F16, numerals.BF16])
def test_rounding_keeps_what_is_not_finite_and_makes_nothing_infinite(kind: Numeral) -> None:
    bits = np.random.default_rng(2).integers(0, 1 << 8 * kind.width, 50_000).astype(kind.unsigned_dtype)
    edge = kind.exponent_mask << kind.mantissa
    bits[:4] = [0, edge - 1, edge, edge + 1]
    for drop in (1, 3, kind.mantissa):
        made = shorter(kind, bits, drop)
        finite = np.isfinite(numerals.widened(kind, bits))
        assert (made[~finite] == bits[~finite]).all() and np.isfinite(numerals.widened(kind, made[finite])).all()
        assert not (made[finite] & kind.unsigned_dtype.type((1 << drop) - 1)).any()
        sign = kind.unsigned_dtype.type(1 << (8 * kind.width - 1))
        near = (bits & ~sign) < edge - (1 << drop)  # what lies higher is cut off
        steps = np.abs((made & ~sign).astype(np.int64) - (bits & ~sign).astype(np.int64))
        assert int(steps[near].max()) <= 1 << (drop - 1) and int(steps.max()) < 1 << drop


def test_what_can_not_be_rounded_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(monkeypatch, capsys)
    before, after = _weights(numerals.F32)
    old, new, out = tmp_path / "old.onnx", tmp_path / "new.onnx", tmp_path / "out.onnx"
    old.write_bytes(_onnx(before))
    new.write_bytes(_onnx(after))
    np.savez(tmp_path / "wrong.npz", X=np.zeros((2, 5), np.float32))
    for arguments, sentence in (
        ((old, old, out), "nothing to round"),
        ((old, new, out, "--inputs", tmp_path / "wrong.npz"), "does not run on these inputs"),
        ((old, tmp_path / "missing.onnx", out), "no file that can be rounded"),
        ((old, new, out, "--weights", "--inputs", tmp_path / "wrong.npz"), "--inputs goes with ONNX models"),
    ):
        ran = run("snap", *arguments)
        assert ran.code == UsageError.exit_code and sentence in ran.err and not out.exists()
    with pytest.raises(UsageError, match="no rounding saves bytes within a drift of 0"):
        snap_file(old, new, out, drift=0, steps=(0.1,))
    ran = run("snap", old, new, out, "--drift", "0.1", "--plot", tmp_path / "curve.svg")
    assert ran.code == 0 and "written" in ran.out and out.is_file() and "<svg" in (tmp_path / "curve.svg").read_text()
