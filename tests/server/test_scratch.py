"""Scratch space: where it lies, that payloads leave memory, and that mapped files keep few resident pages."""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelsync_protocol.errors import LocalError
from modelsync_server.scratch import places, spool
from modelsync_server.scratch.mapped_file import RESIDENT_BYTES, mapped, resident_bytes
from modelsync_server.scratch.parts import Parts

MIB = 1 << 20


def test_scratch_files_go_to_a_disk_unless_somebody_asks_for_memory(tmp_path: Path) -> None:
    usual = (tmp_path / "memory", tmp_path / "disk")
    for folder in usual:
        folder.mkdir()
    mounts = {Path("/"): "ext4", usual[0]: "tmpfs"}
    assert places._chosen({}, usual, mounts) == usual[1]
    assert places._chosen({}, usual, {Path("/"): "ext4"}) == usual[0]
    assert places._chosen({"TMPDIR": str(usual[0])}, usual, mounts) is None, "what TMPDIR says holds"
    assert places._chosen({}, usual[:1], mounts) is None


def test_mounts_are_read_as_the_kernel_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - ext3 /dev/root rw\n1 0 0:1 / /tmp rw - tmpfs x rw\n"
    )
    monkeypatch.setattr(places, "_MOUNTS", table)
    assert places._mounts() == {Path("/mnt/a b"): "ext3", Path("/tmp"): "tmpfs"}


def test_payloads_are_kept_outside_of_memory_and_forgotten_with_their_last_view() -> None:
    before = _scratch_bytes()
    tracemalloc.start()
    try:
        kept = [spool.keep(bytes([number]) * (256 << 10)) for number in range(200)]
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB, "50 MiB of payloads passed"
    finally:
        tracemalloc.stop()
    assert [len(payload) for payload in kept] == [256 << 10] * 200
    assert all(payload == bytes([number]) * (256 << 10) for number, payload in enumerate(kept))
    assert _scratch_bytes() - before >= 40 * MIB
    with pytest.raises(TypeError):
        kept[0][0] = 1  # type: ignore[index]
    del kept
    gc.collect()
    assert _scratch_bytes() - before <= 16 * MIB, "what nobody holds goes; one file goes on being filled"


def test_threads_keep_payloads_apart() -> None:
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda number: spool.keep(number.to_bytes(2) * 5000), range(2000)))
    assert all(payload == number.to_bytes(2) * 5000 for number, payload in enumerate(kept))


def test_a_forked_child_writes_to_a_file_of_its_own() -> None:
    ours = spool.keep(b"a" * 8192)
    child = os.fork()
    if child == 0:
        theirs = [spool.keep(b"b" * 8192) for _ in range(3)]
        os._exit(0 if all(payload == b"b" * 8192 for payload in theirs) else 1)
    after = spool.keep(b"c" * 8192)
    assert os.waitpid(child, 0)[1] == 0
    assert ours == b"a" * 8192 and after == b"c" * 8192


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(LocalError, match="set TMPDIR"):
        spool.room(1 << 20)


def test_parts_make_an_object_without_joining_it_in_memory() -> None:
    parts = Parts([b"head", *(memoryview(bytes([number]) * MIB) for number in range(3))])
    assert len(parts) == 4 + 3 * MIB
    with parts.source() as source:
        assert isinstance(source, Path) and source.stat().st_size == len(parts)
        assert source.read_bytes() == b"head" + b"\0" * MIB + b"\1" * MIB + b"\2" * MIB
    assert not source.exists()
    with Parts([b"a", b"b"]).source() as small:
        assert small == b"ab"


def test_mapped_files_keep_few_resident_pages(tmp_path: Path) -> None:
    most = max(RESIDENT_BYTES, resident_bytes() + 32 * MIB)  # the test's process has much code of its own
    with mapped(tmp_path / "large", size=256 * MIB) as area:
        for begin in range(0, len(area), MIB):
            area[begin : begin + MIB] = b"x" * MIB
        for _ in range(100):
            if resident_bytes() < most:
                break
            time.sleep(0.05)
        assert resident_bytes() < most
        assert bytes(area[:4]) == bytes(area[-4:]) == b"xxxx", "handed back, not lost"


def _scratch_bytes() -> int:
    """Bytes of the spool's files that this process has mapped; they have no names."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith("(deleted)")]
    return sum(int(end, 16) - int(begin, 16) for begin, end in spans)
