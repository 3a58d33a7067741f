"""`zip:FILE`: an export becomes one version that is served; a hostile archive becomes nothing at all."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelsync_protocol.errors import ModelsyncError, RefusedError, UsageError
from modelsync_server import open_store
from modelsync_server.sources import fetching, zip_file
from tests.support.modelsync_command import runner

FILES = {"model.onnx": bytes(range(256)) * 64, "labels.txt": b"bolt\nnut\n", "python/predict.py": b"print()\n"}


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return out.getvalue()


async def fetched(path: Path) -> dict[str, bytes]:
    async with fetching.fetched(fetching.parse(f"zip:{path}")) as found:
        assert str(path.parent) not in str(found.document), "no path of this machine is signed"
        return {file.relative_to(found.path).as_posix(): file.read_bytes() for file in found.path.rglob("*.*")}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
async def test_its_files_are_the_version(tmp_path: Path, method: int) -> None:
    path = tmp_path / "export.zip"
    path.write_bytes(packed(FILES, method))
    assert await fetched(path) == FILES


def test_an_export_published_twice_is_one_version_with_its_model_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(monkeypatch, capsys)
    store, keys, path = str(tmp_path / "store"), str(tmp_path / "keys"), tmp_path / "export.zip"
    assert run("init", store, "--keys", keys).code == 0
    path.write_bytes(packed({"labels.txt": b"a\nb\n", "model.tflite": b"TFL3" * 100}))
    for _ in range(2):
        done = run("publish", store, "parts", f"zip:{path}", "--keys", keys, "--no-requires")
        assert done.code == 0, done.err
    said = run("show", store, "parts").out
    assert "labels.txt" in said and "model.tflite" in said and "zip:export.zip" in said
    assert open_store(store, keys=keys).show("parts").version.version == 1


def _link() -> bytes:
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w") as archive:
            entry = zipfile.ZipInfo("model.onnx")
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
        return out.getvalue()


def _encrypted() -> bytes:
    data = bytearray(packed({"model.onnx": b"x"}))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def _method() -> bytes:
    return packed({"model.onnx": b"x" * 100}, zipfile.ZIP_BZIP2)


def _lies_of_its_size() -> bytes:
    """The directory says 10 bytes; there are a million."""
    data = bytearray(packed({"model.onnx": bytes(1_000_000)}))
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 10)
    return bytes(data)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: packed({"../../etc/cron.d/x": b"x"}), "normalised relative path"),
        (lambda: packed({"/etc/passwd": b"x"}), "normalised relative path"),
        (lambda: packed({"python\\..\\..\\x.py": b"x"}), "backslash"),
        (lambda: packed({"model.onnx": b"x", "model.onnx/labels.txt": b"y"}), "as a file and below itself"),
        (_link, "no plain file"),
        (_encrypted, "encrypted"),
        (_method, "method 12; use deflate"),
        (_lies_of_its_size, "no whole zip file"),
        (lambda: packed(FILES)[:-30], "no whole zip file"),
        (lambda: packed(FILES)[:300] + b"\xff" * 40 + packed(FILES)[340:], "no whole zip file"),
        (lambda: b"<html>404</html>", "no whole zip file"),
        (lambda: packed(FILES).replace(b"labels.txt", b"\0abels.txt"), "no whole zip file"),
        (lambda: packed(FILES).replace(b"labels.txt", b"labels\0txt"), "control character"),
        (lambda: packed({}), "no files"),
    ],
)
async def test_a_hostile_or_damaged_one_is_refused_in_a_sentence(
    tmp_path: Path, make: Callable[[], bytes], says: str
) -> None:
    path = tmp_path / "export.zip"
    path.write_bytes(make())
    with pytest.raises(ModelsyncError, match=says) as refused:
        await fetched(path)
    assert refused.value.exit_code in (2, 3) and str(tmp_path) not in str(refused.value)


async def test_a_bomb_is_refused_by_what_its_directory_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_file, "_BOMB_BYTES", 1_000_000)
    path = tmp_path / "export.zip"
    path.write_bytes(packed({"model.onnx": bytes(2_000_000)}))
    with pytest.raises(RefusedError, match="so it is not unpacked"):
        await fetched(path)
    path.write_bytes(packed({"model.onnx": bytes(900_000)}))
    assert len((await fetched(path))["model.onnx"]) == 900_000, "small ones may be all zeros"


async def test_entries_that_lie_over_each_other_are_a_bomb_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One packed megabyte, which the directory names a hundred times: each entry by itself shrinks by little."""
    monkeypatch.setattr(zip_file, "_BOMB_BYTES", 100_000)
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("model.onnx", bytes(10_000))
            archive.filelist.extend([archive.filelist[0]] * 149)
        (tmp_path / "export.zip").write_bytes(out.getvalue())
    monkeypatch.setattr(zip_file, "_BOMB_TIMES", 50)
    with pytest.raises(RefusedError, match="so it is not unpacked"):
        await fetched(tmp_path / "export.zip")


async def test_what_never_ends_is_no_zip_file() -> None:
    with pytest.raises(UsageError, match="zero is no file"):
        await fetched(Path("/dev/zero"))


async def test_one_that_is_not_there_or_changes_meanwhile_is_said_to(tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    with pytest.raises(UsageError, match="can't be read: No such file"):
        await fetched(path)
    path.write_bytes(packed(FILES))
    source = fetching.parse(f"zip:{path}")
    resolved = await source.resolve()
    path.write_bytes(packed({"model.onnx": b"newer"}))
    with pytest.raises(UsageError, match="changed while it was read"):
        async with fetching.fetched(source, resolved):
            pass
