"""What must hold on a device whatever happened to it: a verified model can be served, and no garbage stays.

Each function raises AssertionError with what is wrong. They read the disk only, as an inference process would.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from modelsync_daemon.build.seeds import load_seed
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer, Reference


def check_serves(data: DataDir, name: str, *, load: bool = False) -> Pointer:
    """The pointer is readable and names a version that is complete, every byte as its manifest says.

    `load`: an inference runtime takes it too.
    """
    pointer = data.read_pointer(name)
    assert pointer is not None, f"{name} has no readable current.json"
    check_version(data, name, pointer.reference)
    if load:
        import onnxruntime

        model = data.version_dir(name, pointer.version, pointer.digest) / "model.onnx"
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return pointer


def check_version(data: DataDir, name: str, reference: Reference) -> None:
    """The version lies there complete: manifest, digests of all chunks, modes, no file more."""
    found = data.find(name, reference)
    assert found is not None, f"{name} {reference.version} is not complete on the disk"
    seed = load_seed(found)
    assert seed is not None, f"the manifest of {name} {reference.version} is damaged"
    for (offset, _, digest), real in zip(seed.manifest.chunks(), seed.digests(), strict=True):
        assert digest == real, f"{name} {reference.version} is damaged at byte {offset}"
    seed.close()
    wanted = {file.path: file.mode for file in seed.manifest.files}
    there = {
        str(path.relative_to(found.path)): path.stat().st_mode & 0o777
        for path in found.path.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert there == wanted, f"{name} {reference.version} has other files or modes than its manifest"


def check_settled(data: DataDir, name: str) -> None:
    """After recovery: `current` follows the pointer, and nothing lies about that no pointer names."""
    pointer = data.read_pointer(name)
    wanted = {pointer.reference} if pointer else set()
    if pointer and pointer.previous:
        check_version(data, name, pointer.previous)
        wanted.add(pointer.previous)
    if pointer:
        link = data.model_dir(name) / "current"
        assert link.readlink() == Path(pointer.reference.path), "the link `current` does not follow current.json"
    assert {item.reference for item in data.installed(name)} == wanted, "a version stays that no pointer names"
    folder = data.model_dir(name)
    allowed = {"current", "current.json"} | {ref.path + end for ref in wanted for end in ("", ".manifest")}
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    assert there <= allowed, f"garbage in {folder}: {sorted(there - allowed)}"


def check_no_garbage(data: DataDir) -> None:
    """Nothing half-built, temporary, in the trash or in a write-ahead log stays once nothing runs here any more."""
    litter = [str(path) for path in (data.root / "incoming").glob("*/*")]
    litter += [str(path) for path in data.root.rglob("*") if path.name.startswith((".modelsync-", ".trash-"))]
    litter += [str(path) for path in data.root.glob("state.db-*")]
    assert not litter, f"garbage stays: {litter}"
    with sqlite3.connect(data.state_db) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM journal").fetchone() == (0,), "a build's journal stays"
    connection.close()
    for path in data.root.glob("state.db-*"):  # ours, from looking
        path.unlink()
