"""Makes an image's layer: the files that its packages need, and nothing that the layer below it has already.

`slim.py LAYER --native ROOT [--staged FOLDER] --out FOLDER`, run by Dockerfile.arm32v7 on any architecture: ROOT is the
system that Debian's packages were installed in, FOLDER/LAYER what is made. packages.toml says what each layer keeps.
"""

from __future__ import annotations

import argparse
import compileall
import filecmp
import fnmatch
import os
import py_compile
import re
import shutil
import stat
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import debian
import sbom

LAYERS = ("daemon", "inference", "sklearn")
USER = "modelsync"
ID = 10001  # user and group; above what Debian gives to accounts, so it is nobody else's on a host


class Layer:
    """A folder that files are copied into unless the layers below have the same."""

    def __init__(self, out: Path, below: list[Path]) -> None:
        self.out = out
        self._below = below
        out.mkdir(parents=True)

    def add(self, root: Path, path: str) -> None:
        """Copy one file or link with its mode and times; folders come with what is in them."""
        parent, name = os.path.split(path)
        place = Path(os.path.realpath(root / parent)).relative_to(os.path.realpath(root)) / name
        source = root / place
        if not os.path.lexists(source) or (source.is_dir() and not source.is_symlink()):
            return
        if any(_same(source, below / place) for below in self._below):
            return
        target = self.out / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(target):
            shutil.copy2(source, target, follow_symlinks=False)

    def write(self, path: str, text: str) -> None:
        """A file of our own."""
        target = self.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        place = self.out / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(place):
            place.symlink_to(target)


def _same(one: Path, other: Path) -> bool:
    if not os.path.lexists(other) or stat.S_IFMT(one.lstat().st_mode) != stat.S_IFMT(other.lstat().st_mode):
        return False
    if one.is_symlink():
        return one.readlink() == other.readlink()
    return filecmp.cmp(one, other, shallow=False)


def main() -> None:
    """Make one layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layer", choices=LAYERS)
    parser.add_argument("--native", type=Path, required=True)
    parser.add_argument("--staged", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rules = tomllib.loads(Path(__file__).with_name("packages.toml").read_text(encoding="utf-8"))
    held = LAYERS[: LAYERS.index(options.layer) + 1]
    layer = Layer(options.out / options.layer, [options.out / name for name in held[:-1]])

    packages = debian.installed(options.native)
    keep = [name for step in held for name in rules[step]["keep"]]
    without = {name for step in held for name in rules[step]["without"]}
    names = sorted(debian.closure(packages, keep, without))
    wanted = _filter(**rules["paths"])
    for name in names:
        for path in filter(wanted, debian.files(options.native, packages[name])):
            layer.add(options.native, path)
    for pattern in rules[options.layer]["generated"]:
        for found in options.native.glob(pattern):
            _add_generated(layer, options.native, found)
    if options.staged:
        for path in filter(wanted, (str(found.relative_to(options.staged)) for found in options.staged.rglob("*"))):
            layer.add(options.staged, path)
    layer.write("var/lib/dpkg/status", "\n\n".join(packages[name].stanza for name in names) + "\n")
    if options.layer == "daemon":
        _add_system(layer, options.native, Path(__file__).parent)
    _compile(layer.out)
    distributions = [options.out / step for step in held]
    layer.write(sbom.PLACE, sbom.document(options.layer, [packages[name] for name in names], distributions))
    size = sum(path.lstat().st_size for path in layer.out.rglob("*") if not path.is_dir())
    sys.stdout.write(f"{options.layer}: {len(names)} Debian packages in all; this layer {size / 1e6:.1f} MB unpacked\n")


def _filter(without: list[str], all_the_same: list[str]) -> Callable[[str], bool]:
    """Tells whether a path is wanted."""
    left, kept = (re.compile("|".join(map(fnmatch.translate, globs))) for globs in (without, all_the_same))

    def wanted(path: str) -> bool:
        return left.match(path) is None or kept.match(path) is not None

    return wanted


def _add_generated(layer: Layer, root: Path, found: Path) -> None:
    place = str(found.relative_to(root))
    if not found.is_symlink():
        layer.add(root, place)
        return
    # Debian's alternatives: a chain of links, of which only the end is of use here.
    target = f"/{place}"
    while (root / target.lstrip("/")).is_symlink():
        target = os.path.normpath(Path(target).parent / (root / target.lstrip("/")).readlink())
    layer.link(place, target)


def _add_system(layer: Layer, root: Path, ours: Path) -> None:
    """Accounts, folders, a shell and the entry point."""
    layer.write("etc/passwd", f"root:x:0:0:root:/root:/bin/sh\n{USER}:x:{ID}:{ID}::/var/lib/modelsync:/bin/sh\n")
    layer.write("etc/group", f"root:x:0:\n{USER}:x:{ID}:\n")
    layer.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    for folder, mode in (("dev", 0o755), ("proc", 0o755), ("run", 0o755), ("sys", 0o755), ("tmp", 0o1777)):
        (layer.out / folder).mkdir(exist_ok=True)
        (layer.out / folder).chmod(mode)
    for applet in (ours / "applets").read_text(encoding="utf-8").split():
        layer.link(f"usr/bin/{applet}", "busybox")
    entry = layer.out / "usr/local/bin/modelsync-start"
    shutil.copy2(ours / "start", entry)
    entry.chmod(0o755)


def _compile(folder: Path) -> None:
    """Byte code beside every module, so that nothing is compiled at each start on a read-only root."""
    for place in ("usr/lib", "usr/local/lib"):
        compiled = compileall.compile_dir(
            folder / place,
            quiet=2,
            stripdir=str(folder),
            prependdir="/",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        if not compiled and (folder / place).is_dir():
            sys.stdout.write(f"slim: some modules in {place} are not for this Python; they stay without byte code\n")


if __name__ == "__main__":
    main()
