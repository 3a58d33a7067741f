"""Writes the first corpus: golden vectors and tiny files of every kind, `python -m tests.fuzz.seeds FOLDER`.

The kept corpus is what `run --merge` makes of these seeds and of what fuzzing found since.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from modelsync_protocol import carried_report, codecs, manifest, media, update
from modelsync_protocol.carried_report import Report
from modelsync_protocol.codecs import zstd
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_protocol.plain import recipes, section
from modelsync_protocol.plain.recipes import Recipe, Wrapping
from modelsync_protocol.plain.section import Views
from modelsync_protocol.plain.view import Member, View
from modelsync_protocol.wire import Reader, write_varint
from modelsync_server.rollout import documents
from modelsync_server.rollout.gate import Counts, Gate
from modelsync_server.rollout.record import Record, RingRecord, State
from modelsync_server.rollout.target import Kind, Target
from tests.fuzz import requirements
from tests.fuzz.targets import SUFFIXES, carve
from tests.protocol.containers import make_hdf5, make_models
from tests.protocol.golden import check
from tests.support import boosted_files, gguf_files, packed_models, tree_files

_ARRAY = np.arange(12, dtype="<f4").reshape(3, 4) / 7
_ENCODINGS = {codecs.SUBTRACT: "subtract", codecs.RANS_DELTA: "rans-delta", codecs.RANS_NEW: "rans-new"}
_ENCODINGS |= {codecs.TRANSPOSE: "transpose", codecs.TREE_COLUMNS: "tree-columns", codecs.LOW_RANK: "low-rank"}
_ENCODINGS |= {codecs.BLOCKS: "blocks", codecs.RECORDS: "records"}
_VECTORS: tuple[str, ...] = (
    "dropped",
    "integers-i8",
    "integers-i16",
    "floats-bf16",
    "new-bf16",
    "new-f16",
    "shifted",
    "records",
    "bf16",
    "i8",
)
_VECTORS += ("tuned-q2_K-0", "hostile-q4_0", "hostile-q4_K", "hostile-q8_0", "hostile-alone-q5_1", "nibbles")
_TWIN = {
    "$version": 3,
    "modelsync": {
        "origin": "https://models.example.com/x?sig=1",
        "models": {"m": {"version": 42, "retry": "a"}, "n": {"state": "absent"}, "o": None},
        "policy": {"bytes_per_day": 5, "bytes_per_month": 9, "rate_limit": 1, "windows": ["22:00-06:00"], "hold": True},
    },
}


def seeds() -> Iterator[tuple[str, bytes]]:
    """(target, input)."""
    yield "bundle", check.read("bundle")
    yield "parcel", check.PARCEL.read_bytes()
    yield "release-record", check.RELEASE.read_bytes()
    yield "offers", check.read("offers")
    yield "update", check.read("target.update")
    yield "manifest-object", check.read("target.manifest-object")
    for name in ("base", "target"):
        document = check.read(f"{name}.manifest.json")
        yield "manifest", document
        yield "skeleton", manifest.decode(document).skeleton
        yield "canonical", document
    yield from _carried()
    yield "operations", _operations()
    yield "twin", json.dumps(_TWIN).encode()
    yield "site", b"afrom 10.0.0.7:8444"
    yield "site", b"qs=want&k=0123456789abcdef&p=8444&x=10.0.0.7:8444,[fe80::1]:8444"
    yield "site", b"tbundles/anomaly.new.v2?o=01234567"
    yield "site", b"gbundles/anomaly.new.v2"
    yield "site", b"r" + (5000).to_bytes(8, "little") + b"bytes=0-4095"
    yield "site", b'w{"event":"neighbour","object":"packs/0","holder":"10.0.0.7:8444","wrong":true}'
    yield "pointer", _pointer()
    yield from _frames()
    yield from _plain()
    yield from _services()
    yield "read-split", make_models.OPENVINO + b"\0"
    yield "read-split", make_models.NCNN + b"\0" + make_models.ncnn_weights()
    yield from requirements.seeds((suffix, data) for suffix, _, data in _files())
    for suffix, target, data in _files():
        yield target, data
        yield "chunks", bytes([SUFFIXES.index(suffix)]) + data
    yield "chunks", bytes([SUFFIXES.index("txt")]) + b"".join(hashlib.sha256(bytes([i])).digest() for i in range(200))


def _carried() -> Iterator[tuple[str, bytes]]:
    index = media.encode(media.Medium("ab12", "2026-11-27T09:00:00Z", {"m": (3, 2), "n": (1,)}))
    yield "media-index", index
    digest = "ab" * 32
    contents = {media.INDEX: index, f"manifests/{digest}": b"m", f"updates/{digest}/{digest}.v1": bytes(600)}
    packed = [media.header(path, len(data)) + data + bytes(-len(data) % 512) for path, data in contents.items()]
    yield "media-file", b"".join(packed) + media.END
    shown = {"modelsync": {"models": {"m": {"version": 3}}}}
    yield "carried-report", carried_report.sign(Report("h", "d", None, 5, "2026-11-27T09:00:00Z", shown), "YQ==")


def _operations() -> bytes:
    data = check.read("target.update")
    preamble = update.decode_preamble(data)
    assert preamble is not None
    header = data[preamble.offset : preamble.payload_offset]
    if preamble.stored < preamble.decoded:
        header = zstd.decompress(header, preamble.decoded, b"")
    reader = Reader(header, "the update")
    reader.varint(1 << 30)
    reader.take(reader.varint(1 << 30))
    reader.take(reader.varint(1 << 30))
    return header[reader.offset :]


def _pointer() -> bytes:
    digest = "ab" * 32
    reference = {"version": 2, "digest": digest, "path": f"2-{digest}"}
    previous = {"version": 1, "digest": digest, "path": f"1-{digest}"}
    return json.dumps({"format": 1, "name": "m", **reference, "generation": 7, "previous": previous}).encode()


def _frames() -> Iterator[tuple[str, bytes]]:
    text, other = b"a plain text, a plain text. " * 9, b"A plain text: a plain test. " * 9
    yield "decode-zstd", carve(len(text), b"", b"", b"", zstd.compress(text, b""))
    yield "decode-patch", carve(len(text), other, text[:20], b"", zstd.compress(text, other + text[:20]))
    for encoding, name in _ENCODINGS.items():
        payload = codecs.ENCODINGS[encoding].encode(text, other, b"")
        yield f"decode-{name}", carve(len(text), other, b"", b"", payload)
    for make in (
        tree_files.pickled,
        tree_files.onnx_model,
        tree_files.booster,
        boosted_files.light,
        boosted_files.histogram,
        boosted_files.tensor_ensemble,
    ):
        old, new = make(1, 1), make(2, 1)
        payload = codecs.ENCODINGS[codecs.TREE_COLUMNS].encode(new, old, b"")
        yield "decode-tree-columns", carve(len(new), old, b"", b"", payload)
    for vector in check.frames():
        if vector["name"] not in _VECTORS:
            continue
        base, shared, payload = (check.part(vector, name) for name in ("base", "tables", "payload"))
        yield f"decode-{_ENCODINGS[vector['encoding']]}", carve(vector["length"], base, b"", shared, payload)
        if shared:
            yield "tables", shared
        if shared and vector["encoding"] != codecs.BLOCKS:
            reader = Reader(payload, "a head")
            reader.varint(1 << 30)
            reader.take(reader.varint(1 << 30))
            sizes = vector["length"].to_bytes(3, "little") + len(base).to_bytes(3, "little")
            yield "head", sizes + payload[: reader.offset]


def _plain() -> Iterator[tuple[str, bytes]]:
    text = b"a plain text, a plain text. " * 9
    zipped, deflated = Recipe(Wrapping.ZLIB, 9), Recipe(Wrapping.RAW, 1, flushed=True, shuffle=4)
    views = Views(
        View(65_536, [Member(700, 100, 300, zipped), Member(10, 20, 20, recipes.STORED)]),
        View(65_536, [Member(0, 50, 90, deflated), Member(50, 10, 30, zipped)]),
    )
    for one in (views, Views(views.base, View(65_536, ())), Views.streams(65_536, 65_536)):
        field = bytearray()
        section.write(field, one)
        yield "plain-views", bytes(field)
    for recipe in (zipped, deflated, recipes.STORED):
        member = bytearray()
        recipes.write(member, recipe)
        write_varint(member, len(text))
        yield "unpack", bytes(member) + b"".join(recipes.compressed(recipe, [text]))
    for write in packed_models.WRITERS.values():
        yield "members", write({name: array[:2, :9] for name, array in packed_models.weights(1).items()})
    for path in sorted(make_hdf5.FOLDER.glob("*.h5")):
        yield "read-hdf5", path.read_bytes()
        yield "members", path.read_bytes()


def _services() -> Iterator[tuple[str, bytes]]:
    tensor = {"name": "X", "shape": [1, 3], "datatype": "FP32"}
    written = {**tensor, "data": [0.1, 0.2, 0.3]}
    text = {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}
    document = {"id": "1", "inputs": [written, text], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    yield "infer-request", b"\0\0" + json.dumps(document).encode()
    binary = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": 12}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(binary).encode()
    yield "infer-request", len(head).to_bytes(2, "little") + head + _ARRAY.tobytes()[:12]
    limits = {"latency_ms": "5", "memory_bytes": 1 << 20}
    tolerances = {"y": {"absolute": "0.1", "relative": "1e-3", "top1": "0.9"}}
    case = {"inputs": {"X": {key: written[key] for key in ("shape", "datatype", "data")}}, "outputs": {}}
    probe = {
        "format": 1,
        "cases": [case],
        "tolerance": {"absolute": "0.001"},
        "tolerances": tolerances,
        "limits": limits,
    }
    yield "probe", json.dumps(probe).encode()
    message = json.dumps({"outputs": ["y"], "tensors": [["X", "FP32", [1, 3], 12], ["t", "BYTES", [1], 5]]}).encode()
    yield "worker-message", struct.pack(">I", len(message)) + message + _ARRAY.tobytes()[:12] + b"\1\0\0\0a"
    user = "h/pi/?api-version=2019-10-01"
    packets: tuple[mqtt.Packet, ...] = (
        mqtt.Connect("pi", False, 60, user, b"SharedAccessSignature sr=h&sig=eA%3D%3D&se=1"),
        mqtt.Subscribe(1, (("$iothub/twin/res/#", 0), ("$iothub/methods/POST/#", 1))),
        mqtt.Publish("$iothub/twin/GET/?$rid=1"),
        mqtt.Publish("devices/pi/messages/events/", b"{}", 1, 2),
        mqtt.Puback(2),
        mqtt.Unsubscribe(3, ("a",)),
        mqtt.Pingreq(),
        mqtt.Disconnect(),
    )
    yield "mqtt", b"".join(map(mqtt.encode, packets))
    yield from _rollouts()
    yield "sas", b"SharedAccessSignature sr=h%2Fdevices%2Fpi&sig=eA%3D%3D&se=1&skn=p"


def _rollouts() -> Iterator[tuple[str, bytes]]:
    yield (
        "hub-query",
        (
            b"SELECT tags.x AS x, COUNT() AS n FROM devices WHERE NOT (tags.y.z = 'a' OR tags.n NIN [1, true]) AND"
            b' is_defined(properties.reported.v) AND starts_with(deviceId, "p") GROUP BY tags.x'
        ),
    )
    yield "hub-query", b"configurations.[[a-1]].status = 'Applied' AND tags['k'] >= -1.5e3 OR 3 IN tags.list"
    rings = (RingRecord("one", "tags.x = 1", Gate(), 5, 4, 100, 25, 1.5, 2.5, 3, 90, True, Counts(4, 3, 0, 1, 0)),
             RingRecord("rest", "*", Gate(active=3)))  # fmt: skip
    made = Record("abc123", "anomaly", 3, Target(Kind.EDGE, "m"), State.RUNNING, rings, "ann", 1.0, 1, "why")
    yield "rollout-labels", json.dumps(made.labels()).encode()
    yield "hub-configuration", json.dumps(documents.ring_body(made, 0)).encode()
    yield "hub-configuration", json.dumps(documents.record_body(made)).encode()


def _files() -> Iterator[tuple[str, str, bytes]]:
    """(suffix, target, content)."""
    raw = _ARRAY.tobytes()
    text = json.dumps({"w": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, len(raw)]}}).encode()
    yield "safetensors", "read-safetensors", struct.pack("<Q", len(text)) + text + raw
    out = io.BytesIO()
    np.save(out, _ARRAY)
    yield "npy", "read-npy", out.getvalue()
    out = io.BytesIO()
    np.savez(out, a=_ARRAY)
    yield "npz", "read-npz", out.getvalue()
    yield "pt", "read-torch", _torch(raw)
    for protocol in (2, 4, 5):
        value = {"a": _ARRAY, "b": [1, -2, 1 << 70, "x", None, True, (1.5, b"y")], "c": np.float64(3)}
        yield "pkl", "read-pickle", pickle.dumps(value, protocol=protocol)
    out = io.BytesIO()
    joblib: Any = importlib.import_module("joblib")
    joblib.dump({"a": _ARRAY, "b": _ARRAY.astype("i1")}, out)
    yield "joblib", "read-pickle", out.getvalue()
    yield "pt2", "read-exported", make_models.an_exported_program()
    yield "bin", "read-core-ml", make_models.core_ml_weights()
    yield "onnx", "read-onnx", _onnx()
    yield "tflite", "read-tflite", tflite_model(raw)
    pairs = {"general.tags": gguf_files.strings(["a", "ö"]), "n": struct.pack("<IIQ3B", 9, 0, 3, 1, 2, 3)}
    for version, alignment in ((2, 32), (3, 8)):
        parts = {"w": ("f32", (3, 4), raw), "q": ("q4_0", (2, 32), bytes(range(36)))}
        made = gguf_files.gguf(parts, version=version, alignment=alignment, pairs=pairs)
        yield "gguf", "read-gguf", made


def _torch(raw: bytes) -> bytes:
    build = (
        b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02"
        b"((X\x07\x00\x00\x00storageq\x03ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpu"
        b"q\x06K\x0ctq\x07QK\x00K\x03K\x04\x86q\x08K\x04K\x01\x86q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0bt"
        b"q\x0cRq\rs."
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("m/data.pkl", build)
        archive.writestr("m/data/0", raw)
    return out.getvalue()


def _onnx() -> bytes:
    outside = onnx.numpy_helper.from_array(_ARRAY, "far")
    onnx.external_data_helper.set_external_data(outside, "m.data", 4096, 48)
    outside.ClearField("raw_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    inner = onnx.helper.make_graph([], "inner", [], [], [onnx.numpy_helper.from_array(_ARRAY, "deep")])
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", scale=[1.5] * 4, counts=[1, 2]),
            onnx.helper.make_node("MatMulNBits", ["x", "raw"], ["y"], domain="com.microsoft", bits=4),
            onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, value=onnx.numpy_helper.from_array(_ARRAY)),
        ],
        "g",
        [],
        [],
        [
            onnx.numpy_helper.from_array(_ARRAY, "raw"),
            onnx.helper.make_tensor("typed", onnx.TensorProto.FLOAT, (3, 4), _ARRAY.ravel().tolist()),
            onnx.helper.make_tensor("whole", onnx.TensorProto.INT64, (3,), [1, 2, 300]),
            outside,
        ],
    )
    data: bytes = onnx.helper.make_model(graph).SerializeToString()
    return data


def tflite_model(raw: bytes, kind: int = 0) -> bytes:
    """A model of one tensor of that type in the second of two buffers, with the fields that the reader looks at."""
    flatbuffers: Any = importlib.import_module("flatbuffers")
    builder = flatbuffers.Builder(256)
    name, data = builder.CreateString("w"), builder.CreateByteVector(raw)
    shape = builder.CreateNumpyVector(np.array([3, 4], np.int32))

    def table(count: int, offsets: dict[int, int], numbers: dict[int, int]) -> int:
        builder.StartObject(count)
        for slot, offset in offsets.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, number in numbers.items():
            builder.PrependUint32Slot(slot, number, 0)
        return int(builder.EndObject())

    def vector(offsets: list[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    buffers = vector([table(3, {}, {}), table(3, {0: data}, {})])
    graphs = vector([table(1, {0: vector([table(4, {0: shape, 3: name}, {1: kind, 2: 1})])}, {})])
    builder.Finish(table(5, {2: graphs, 4: buffers}, {0: 3}), file_identifier=b"TFL3")
    return bytes(builder.Output())


def main() -> None:
    """Write every seed under FOLDER/<target>/."""
    folder = Path(sys.argv[1])
    for target, data in seeds():
        place = folder / target
        place.mkdir(parents=True, exist_ok=True)
        (place / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    main()
