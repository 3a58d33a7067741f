"""What files would execute when they are loaded: pickles, TorchScript, Keras layers, scripts. Nothing is executed.

Reads whole files and takes seconds on large ones, so it is for publishers and `inspect`, not for devices.
"""

from __future__ import annotations

import re
import zlib

from modelsync_protocol.containers import zip_entries
from modelsync_protocol.containers.pickle_walk import Name, Walk
from modelsync_protocol.errors import FormatError
from modelsync_protocol.references.findings import Findings

PICKLES = (".pkl", ".pickle", ".joblib")
ZIPS = (".pt", ".pth", ".ptl", ".jit", ".bin", ".npz", ".keras", ".zip")
_MAX_ENTRIES = 10_000
_MAX_ENTRY_BYTES = 64 * 1024 * 1024
_KERAS_CODE = re.compile(rb'"class_name":\s*"(Lambda|TFOpLambda|SlicingOpLambda)"')
_KERAS_MODULE = re.compile(rb'"module":\s*"([^"]{1,200})"')
_KERAS_OWN = ("keras", "builtins", "tensorflow.keras", "tf_keras")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22\x4d\x18", b"x\x9c", b"x\x01", b"x\xda", b"ZF")

_ALLOWED = frozenset(
    {
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.numeric", "_frombuffer"),
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "complex"),
        ("builtins", "bytearray"),
        ("_codecs", "encode"),
    }
)
"""What builds arrays and containers, and nothing else."""

_STORAGE = re.compile(r"[A-Z][A-Za-z0-9]{0,20}Storage|(u?int|float|bfloat|complex)\d{1,3}")


def allowed(name: Name) -> bool:
    """Whether what a pickle imports only builds arrays and containers."""
    return (name.module, name.name) in _ALLOWED or (name.module == "torch" and bool(_STORAGE.fullmatch(name.name)))


def read_pickle(findings: Findings, path: str, data: memoryview, where: str = "") -> None:
    """Note what a pickle imports beyond what builds arrays."""
    if bytes(data[:8]).startswith(_COMPRESSED):
        findings.execute(path, where, "a compressed pickle: what it imports can't be seen.")
        return
    seen: set[Name | None] = set()
    try:
        Walk(data, on_name=seen.add).run()
    except FormatError as error:
        findings.execute(path, where, f"a pickle that can't be followed to its end: {error}")
    for name in sorted((n for n in seen if n is not None and not allowed(n)), key=lambda n: (n.module, n.name))[:100]:
        findings.execute(path, where, f"imports {name.module[:80]}.{name.name[:80]}.")
    if None in seen:
        findings.execute(path, where, "imports something that it names only while it runs.")


def read_zip(findings: Findings, path: str, data: memoryview) -> None:
    """Note the code in a zip file: pickles, TorchScript, Keras' Lambda layers. FormatError if it is no zip file."""
    for number, entry in enumerate(zip_entries.all_entries(data)):
        if number == _MAX_ENTRIES:
            raise FormatError("the zip file has too many entries.")
        _entry(findings, path, entry, data[entry.offset : entry.offset + entry.length])


def _entry(findings: Findings, path: str, entry: zip_entries.Entry, packed: memoryview) -> None:
    name = entry.name
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        findings.refuse(path, f"entry {name[:100]!r}", "would be unpacked outside of its folder.")
    elif "/code/" in f"/{name}" and name.endswith(".py"):
        findings.execute(path, name[:100], "TorchScript: a program that runs with the model.")
    elif name.endswith((".pkl", ".npy")) or name.rpartition("/")[2] == "config.json":
        content = _unpacked(entry, packed)
        if content is None:
            findings.execute(path, name[:100], "too long, or packed in a way that can't be looked into.")
        elif name.endswith(".pkl"):
            read_pickle(findings, path, content, name[:100])
        elif name.endswith(".npy"):
            read_array(findings, path, content, name[:100])
        else:
            read_keras(findings, path, content)


def _unpacked(entry: zip_entries.Entry, packed: memoryview) -> memoryview | None:
    """An entry's bytes; None if there are more than _MAX_ENTRY_BYTES or the method is not known here."""
    if entry.method == zip_entries.STORED:
        return packed if len(packed) <= _MAX_ENTRY_BYTES else None
    if entry.method != zip_entries.DEFLATED:
        return None
    try:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, _MAX_ENTRY_BYTES + 1)
    except zlib.error as error:
        raise FormatError("the zip file is damaged.") from error
    return memoryview(content) if len(content) <= _MAX_ENTRY_BYTES else None


def read_array(findings: Findings, path: str, data: memoryview, where: str = "") -> None:
    """Note a NumPy file whose elements are objects: a pickle."""
    if b"'descr': '|O" in bytes(data[:65536]) or b"'descr': \"|O" in bytes(data[:65536]):
        findings.execute(path, where, "an array of objects, which is a pickle.")


def read_keras(findings: Findings, path: str, data: memoryview) -> None:
    """Note Lambda layers and layers of other modules in a Keras configuration, as JSON or inside HDF5."""
    for match in _KERAS_CODE.finditer(data):
        findings.execute(path, match[1].decode(), "a Keras layer that holds Python code.")
    for match in _KERAS_MODULE.finditer(data):
        module = match[1].decode(errors="replace")
        if module.partition(".")[0] not in _KERAS_OWN and not module.startswith(_KERAS_OWN):
            findings.execute(path, f"module {module[:100]!r}", "a Keras layer that imports code.")
