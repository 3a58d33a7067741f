"""A file at a new path is paired with the old one that it most likely was."""

from __future__ import annotations

import hashlib

import pytest

from modelsync_protocol.manifest import Manifest, RegularFile
from modelsync_server.encode.base_finder import BaseFinder


def manifest(*paths: str, version: str) -> Manifest:
    """A tree of one-chunk files of 100 bytes each, all of whose contents differ from any other version's."""
    return Manifest(
        tuple(
            RegularFile(path, 0o644, (100,), (hashlib.sha256(f"{version} {path}".encode()).hexdigest(),))
            for path in sorted(paths)
        )
    )


@pytest.mark.parametrize(
    ("moved", "old"),
    [
        ("lib/pip-23.2.1.dist-info/RECORD", "lib/pip-23.0.1.dist-info/RECORD"),  # a folder with the release in its name
        ("lib/zope-7.dist-info/RECORD", "lib/zope-6.dist-info/RECORD"),
        ("lib/aardvark-2.dist-info/RECORD", "lib/aardvark-1.dist-info/RECORD"),
        ("src/pip/_vendor/rich/table.py", "lib/pip/_vendor/rich/table.py"),  # all of it is moved
        ("lib/other.txt", "share/other.txt"),  # the only one of that name
        ("lib/pip/table.py", "lib/pip/table.py"),  # not moved at all
    ],
)
def test_a_moved_file_leans_on_its_like(moved: str, old: str) -> None:
    packages = [f"lib/{name}.dist-info/RECORD" for name in ("aardvark-1", "numpy-2.3.4", "pip-23.0.1", "zope-6")]
    more = ["lib/pip/_vendor/rich/table.py", "lib/pip/table.py", "lib/zope/table.py", "share/other.txt"]
    base = manifest(*packages, *more, version="old")
    target = manifest(moved, "lib/first.py", version="new")
    place = dict(zip((file.path for file in target.files), target.file_offsets, strict=False))[moved]
    other = dict(zip((file.path for file in base.files), base.file_offsets, strict=False))[old]
    assert BaseFinder(base, target).counterpart(place + 7) == other + 7
