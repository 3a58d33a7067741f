"""conda-pack's archives: what `conda-unpack` would do on a device is done once, before; nothing of it is executed."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
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
_INFO = "lib/python3.11/site-packages/ore-1.0.dist-info"


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
        ("/opt/e", {"bin/conda-unpack": b"_prefix_records = 5"}, "not what conda-pack writes"),
        ("/opt/e", {"bin/conda-unpack": b"_prefix_records = " + b"-" * 100_000 + b"1"}, "not what conda-pack writes"),
        (
            "/opt/e",
            {"bin/conda-unpack": b"_prefix_records = [('a', '/\\ud800', 'text')]"},
            "not what conda-pack writes",
        ),
        ("/opt/e", {"bin/conda-unpack": b"_prefix_records = [('%s', '/x', 'text')]" % (b"a" * 5000)}, "too long"),
        ("/opt/e", {"../escaped": b"x"}, "leads out"),
        ("/opt/e", {"etc": b"a file", "etc/below": b"x"}, "can't be unpacked"),
        ("/opt/e", {"n" * 300: b"x"}, "too long"),
        ("/opt/e", {"conda-meta/ore-1.0-0.json": b"{"}, "damaged"),
        ("/opt/e", {"conda-meta/deep.json": b"[" * 100_000}, "damaged"),
        ("/opt/e", {"conda-meta/b.json": b'{"name": "\\u001b[2J", "version": "1"}'}, "damaged"),
        ("/opt/e", {"conda-meta/folder.json/x": b""}, "Is a directory"),
        ("/opt/e", {"environment.json/x": b""}, "own file belongs"),
        ("/opt/e", {f"{_INFO}/RECORD": b"\xff"}, "no list of files"),
        ("/opt/e", {f"{_INFO}/RECORD": b"a" * 200_000}, "no list of files"),
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


def strange(path: Path, *members: tuple[str, bytes, str | bytes]) -> Path:
    """An archive that no conda-pack made: `members` are names, types, and links' targets or files' contents."""
    with tarfile.open(path, "w") as archive:
        for name, kind, what in (("conda-meta/a.json", tarfile.REGTYPE, b'{"name": "a", "version": "1"}'), *members):
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0o6777
            if isinstance(what, bytes):
                member.size = len(what)
                archive.addfile(member, io.BytesIO(what))
            else:
                member.linkname = what
                archive.addfile(member)
    return path


def longer_than_a_path() -> list[tuple[str, bytes, str | bytes]]:
    """CVE-2025-4517: sixteen links whose real path is too long to be resolved, and one that leads out behind them."""
    made: list[tuple[str, bytes, str | bytes]] = []
    part, real, steps = "d" * 247, "", "abcdefghijklmnop"
    for step in steps:
        made += [(f"{real}{part}", tarfile.DIRTYPE, ""), (f"{real}{step}", tarfile.SYMTYPE, part)]
        real += f"{part}/"
    last = "/".join(steps) + "/" + "l" * 254
    made.append((last, tarfile.SYMTYPE, "../" * len(steps)))
    return [*made, ("out", tarfile.SYMTYPE, f"{last}/../../../"), ("out/escaped", tarfile.REGTYPE, b"x")]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (longer_than_a_path(), "behind a link|File exists"),
        ([("x", tarfile.SYMTYPE, "/etc/passwd")], "outside of the environment"),
        ([("x", tarfile.SYMTYPE, "../../x")], "outside of the environment"),
        ([("d", tarfile.SYMTYPE, "conda-meta"), ("d/b.json", tarfile.REGTYPE, b"{}")], "File exists"),
        ([("d", tarfile.SYMTYPE, "conda-meta"), ("d/b", tarfile.SYMTYPE, "a.json")], "behind a link"),
        ([("x", tarfile.LNKTYPE, "../../etc/passwd")], "leads out"),
        ([("s", tarfile.SYMTYPE, "conda-meta"), ("x", tarfile.LNKTYPE, "s")], "no file, folder or link"),
        ([("x", tarfile.FIFOTYPE, "")], "no file, folder or link"),
        ([("x", tarfile.CHRTYPE, "")], "no file, folder or link"),
        ([("conda-meta/l.json", tarfile.SYMTYPE, "l.json")], "symbolic links"),
        ([("x" * 200, tarfile.GNUTYPE_LONGNAME, b"x" * 2**21)], "too long"),
    ],
)
def test_an_archive_of_links_and_devices_writes_nothing_anywhere(
    tmp_path: Path, members: Sequence[tuple[str, bytes, str | bytes]], sentence: str
) -> None:
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    archive = strange(inner / "strange.tar", *members)
    with pytest.raises(UsageError, match=sentence):
        unpack(archive, inner / "out", prefix=None)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "one", inner, archive]


def test_links_within_stay_links_and_files_lose_what_only_root_gives(tmp_path: Path) -> None:
    members = [("deep/1/s", tarfile.SYMTYPE, "../.."), ("x", tarfile.SYMTYPE, "deep/1/s/../../conda-meta")]
    archive = strange(tmp_path / "a.tar", *members, ("y", tarfile.LNKTYPE, "conda-meta/a.json"))
    unpack(archive, tmp_path / "out", prefix=None)
    assert (tmp_path / "out" / "x").resolve() == tmp_path / "out" / "deep" / "conda-meta", "as it is written"
    assert (tmp_path / "out" / "y").stat().st_mode & 0o7777 == 0o755
    assert all(path.resolve().is_relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*"))


def test_a_link_where_a_file_of_ours_belongs_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    archive = strange(tmp_path / "a.tar", ("environment.json", tarfile.SYMTYPE, "conda-meta/a.json"))
    unpack(archive, tmp_path / "out", prefix=None)
    assert not (tmp_path / "out" / "environment.json").is_symlink()
    assert json.loads((tmp_path / "out" / "conda-meta" / "a.json").read_text()) == {"name": "a", "version": "1"}
