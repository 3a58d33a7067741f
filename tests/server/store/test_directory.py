"""What only the directory backend promises: durability, leftovers, opening."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server.store import AlreadyExists, DirectoryStore, create_store, durable, open_store


def test_a_directory_that_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a modelsync store: run `modelsync init"):
        open_store(str(tmp_path))


@pytest.mark.parametrize("url", ["azblob://Account", "azblob://account/a--b", "s3://B", "ftp://bucket", ""])
def test_other_kinds_of_store_are_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


def test_a_file_can_not_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        create_store(str(tmp_path / "file"))


async def test_leftover_temp_files_are_neither_listed_nor_in_the_way(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / (durable.TEMP_PREFIX + "00")).write_bytes(b"half")
    await store.create("packs/p", b"whole")
    assert await store.list("") == [("packs/p", 5)]


async def test_what_is_no_object_is_not_listed(tmp_path: Path) -> None:
    """Whoever lists goes on to read, or to delete, what was listed."""
    store = DirectoryStore(tmp_path)
    await store.create("packs/p", b"whole")
    for name in ("two words", "ümlaut", "p~", "n\n", "x" * 255):
        (tmp_path / "packs" / name).write_bytes(b"somebody else's")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "p").write_bytes(b"somebody else's")
    os.mkfifo(tmp_path / "packs" / "pipe")
    (tmp_path / "packs" / "nowhere").symlink_to("nothing")
    found = await store.list("")
    assert found == [("packs/p", 5), ("packs/" + "x" * 255, 15)]
    for path, _ in found:
        await store.stat(path)


@pytest.mark.parametrize("syscall", ["fsync", "link", "unlink"])
def test_a_kill_inside_a_write_leaves_the_whole_object_or_none(tmp_path: Path, syscall: str) -> None:
    """The writer is killed right before the named step; what is seen afterwards is never half an object."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from modelsync_server.store import durable\n"
        f"setattr(os, {syscall!r}, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))\n"
        "durable.write(Path(sys.argv[1]), b'x' * 100_000, create_only=True)\n"
    )
    path = tmp_path / "packs" / "p"
    (tmp_path / "packs").mkdir()
    process = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert process.returncode == -9
    assert not path.exists() or path.read_bytes() == b"x" * 100_000
    if not path.exists():
        durable.write(path, b"again", create_only=True)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "packs").mkdir()
    with pytest.raises(LocalError, match="the disk is full"):
        durable.write(tmp_path / "packs" / "p", b"x")
    assert list((tmp_path / "packs").iterdir()) == []


async def test_without_hard_links_create_is_still_create_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    store = DirectoryStore(tmp_path)
    await store.create("packs/p", b"first")
    with pytest.raises(AlreadyExists):
        await store.create("packs/p", b"second")
    assert await store.get("packs/p") == b"first"
    assert await store.list("") == [("packs/p", 5)]
