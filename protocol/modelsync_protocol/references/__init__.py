"""What an artifact refers to and what it would execute, by format, without executing it. No I/O here.

`read` is asked by the publisher, by the daemon before a version counts as installed, and by inference before it loads.
"""

from __future__ import annotations

from modelsync_protocol.errors import FormatError
from modelsync_protocol.references import documents, ort, tflite
from modelsync_protocol.references.findings import Finding, Findings
from modelsync_protocol.references.tree import MemoryTree, OutsideError, Tree, resolve

__all__ = ["Finding", "Findings", "MemoryTree", "OutsideError", "Tree", "read", "resolve"]


def read(tree: Tree, *, model: str | None = None, code: bool = False) -> Findings:
    """Read every model file and document of `tree`; never raises for what a file holds.

    `model`: a path that a runtime will take for a model whatever it is called. `code`: look for what would be executed
    too, which reads all of pickles and archives.
    """
    findings = Findings(tree)
    for path, size in sorted(tree.entries.items()):
        if isinstance(size, str):
            try:
                resolve(tree.entries, "", path)
            except OutsideError as error:
                if "leads out" in str(error):
                    findings.refuse(path, "", f"the link {error}.")
            continue
        try:
            _file(findings, path, tree.read(path), path == model, code)
        except FormatError as error:
            findings.unreadable.append(Finding(path, "", str(error)))
    return findings


def _file(findings: Findings, path: str, data: memoryview, is_model: bool, code: bool) -> None:
    name = path.lower()
    magic = bytes(data[4:8])
    if magic == ort.IDENTIFIER or name.endswith(".ort"):
        findings.formats[path] = "ONNX Runtime"
        ort.read(findings, path, data)
    elif magic == tflite.IDENTIFIER or name.endswith(".tflite"):
        findings.formats[path] = "TensorFlow Lite"
        tflite.read(findings, path, data)
    elif name.endswith(".onnx") or (is_model and not name.endswith((".py", ".pkl", ".pickle", ".joblib"))):
        from modelsync_protocol.references import onnx  # with it come all containers' readers

        findings.formats[path] = "ONNX"
        onnx.read(findings, path, data)
    elif documents.handles(path):
        findings.formats[path] = "document"
        documents.read(findings, path, data)
    if code:
        _code(findings, path, name, data)


def _code(findings: Findings, path: str, name: str, data: memoryview) -> None:
    # Reading archives takes zipfile and zlib, which a device that looks for references only does not need.
    from modelsync_protocol.references import programs

    if name.endswith(programs.PICKLES):
        findings.formats[path] = "pickle"
        findings.execute(path, "", "a pickle: runs code when it is loaded (off unless a device allows it).")
        programs.read_pickle(findings, path, data)
    elif name.endswith(programs.ZIPS) and bytes(data[:2]) == b"PK":
        findings.formats[path] = "archive"
        programs.read_zip(findings, path, data)
    elif name.endswith((".pt", ".pth", ".bin")) and bytes(data[:1]) == b"\x80":
        findings.formats[path] = "pickle"
        programs.read_pickle(findings, path, data)
    elif name.endswith(".npy"):
        findings.formats[path] = "NumPy"
        programs.read_array(findings, path, data)
    elif name.endswith((".h5", ".hdf5")):
        findings.formats[path] = "HDF5"
        programs.read_keras(findings, path, data)
    elif name.endswith((".py", ".so", ".pyd", ".dll")):
        findings.formats[path] = "program"
        findings.execute(path, "", "a program.")
