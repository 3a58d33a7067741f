"""conda-pack's archives: what `conda-unpack` would do on a device is done once, before; nothing of it is executed."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelsync_protocol.errors import UsageError
from modelsync_server.environment.conda import unpack
from modelsync_server.publish.artifact import snapshot
from modelsync_server.requirements import requirements_of

HOLDER = "/opt/anaconda1anaconda2anaconda3/placehold_placehold_placehold"
"""The place of the prefix, as conda-build writes it."""

_RECORDS = f"""('etc/settings', {HOLDER!r}, 'text'),
('lib/libssl.so', {HOLDER!r}, 'binary'),
('bin/ore', {HOLDER!r}, 'text')"""
_BINARY = b"\x7fELF" + HOLDER.encode() + b"/ssl/certs\0" + b"\1" * 9 + HOLDER.encode() + b"\0end"


def packed(path: Path, more: Mapping[str, bytes] | None = None, source: str = "/home/one") -> Path:
    """An archive in conda-pack's layout: interpreter, packages, conda-meta, activate, conda-unpack."""
    meta = {"name": "ore", "version": "1.0", "subdir": "linux-64", "link": {"source": source}}
    files: dict[str, bytes] = {
        "bin/python3.11": b"#!/bin/sh\necho the interpreter \"$@\"\n",
        "bin/ore": f"#!/usr/bin/env python3.11\nPREFIX = {HOLDER!r}\n".encode(),
        "bin/activate": b"# sh\n",
        "bin/conda-unpack": f"raise SystemExit\n_prefix_records = [\n{_RECORDS}\n]\n".encode(),
        "bin/conda_unpack_progress.py": b"", "etc/settings": f"at={HOLDER}/etc\n".encode(), "lib/libssl.so": _BINARY,
        "lib/python3.11/site-packages/ore.py": b"VERSION = 1\n",
        "lib/python3.11/site-packages/__pycache__/ore.cpython-311.pyc": source.encode(),
        "conda-meta/ore-1.0-0.json": json.dumps({**meta, "extracted_package_dir": f"{source}/pkgs/ore"}).encode(),
        "conda-meta/history": f"# {source}\n".encode(), **(more or {}),
    }  # fmt: skip
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o775 if name.startswith("bin/") else 0o664
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, "python3.11"
        archive.addfile(link)
    return path


def test_prefixes_are_replaced_and_two_machines_give_the_same_bytes(tmp_path: Path) -> None:
    device = "/var/lib/modelsync/models/environment/current"
    digests = set()
    for place in ("one", "other"):
        out = tmp_path / place
        made = unpack(packed(tmp_path / f"{place}.tar.gz", source=f"/home/{place}"), out, prefix=device)
        assert (made.python, made.interpreter, made.arch, dict(made.packages)) == (
            "3.11", "included", "x86_64", {"ore": "1.0"},
        )  # fmt: skip
        with snapshot(out) as artifact:
            digests.add(artifact.manifest.digest)
            assert requirements_of(artifact.manifest, artifact.stream) == {"arch": "x86_64"}
    assert len(digests) == 1
    assert (out / "etc" / "settings").read_text() == f"at={device}/etc\n"
    binary = (out / "lib" / "libssl.so").read_bytes()
    assert len(binary) == len(_BINARY) and f"{device}/ssl/certs\0".encode() in binary and binary.endswith(b"\0end")
    assert HOLDER.encode() not in binary
    assert not (out / "bin" / "conda-unpack").exists() and not list(out.rglob("*.pyc"))
    assert (out / "bin" / "check-environment").exists()
    moved = out.rename(tmp_path / "moved")
    said = subprocess.run([moved / "bin" / "ore", "x"], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["the", "interpreter", str(moved / "bin" / "ore"), "x"], (
        "the Python beside it, wherever it is"
    )


@pytest.mark.parametrize(
    ("prefix", "more", "sentence"),
    [
        (None, {}, "--prefix"),
        ("relative", {}, "no absolute path"),
        ("/x" * 60, {}, "room for"),
        ("/opt/e", {"bin/conda-unpack": b"_prefix_records = [('../../etc/passwd', '/opt/x', 'text')]"}, "outside"),
        ("/opt/e", {"bin/conda-unpack": b"_prefix_records = [('a', 1)]"}, "not what conda-pack writes"),
        ("/opt/e", {"../escaped": b"x"}, "leads out"),
        ("/opt/e", {"conda-meta/ore-1.0-0.json": b"{"}, "damaged"),
    ],
)
def test_what_can_not_be_unpacked_is_said_and_nothing_is_left(
    tmp_path: Path, prefix: str | None, more: Mapping[str, bytes], sentence: str
) -> None:
    archive = packed(tmp_path / "packed.tar.gz", more)
    with pytest.raises(UsageError, match=sentence):
        unpack(archive, tmp_path / "out", prefix=prefix)
    assert list(tmp_path.iterdir()) == [archive]


def test_links_that_leave_the_environment_and_other_archives_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "other.tar.gz"
    with tarfile.open(archive, "w:gz") as made:
        made.addfile(tarfile.TarInfo("a"), io.BytesIO(b""))
    with pytest.raises(UsageError, match="no conda-meta"):
        unpack(archive, tmp_path / "out", prefix=None)
    archive.write_bytes(archive.read_bytes()[:20])
    with pytest.raises(UsageError, match="can't be unpacked"):
        unpack(archive, tmp_path / "out", prefix=None)
    with pytest.raises(UsageError, match="does not exist"):
        unpack(tmp_path / "nothing.tar.gz", tmp_path / "out", prefix=None)
