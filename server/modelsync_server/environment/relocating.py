"""Makes an installed environment relocatable and the same on every machine: the last step of both ways.

What differs from run to run goes (compiled files, INSTALLER, REQUESTED, direct_url.json), scripts find the Python that
is beside them, RECORD says what is there, modes are 0644 and 0755, links are relative.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from modelsync_protocol.errors import UsageError

_LEFT_BEHIND = ("INSTALLER", "REQUESTED", "direct_url.json")
TRAMPOLINE = b"""#!/bin/sh
'''eval' 'self=$(readlink -f "$0") && exec "${self%/*}/python" "$self" "$@"'
' '''
"""
"""Read by sh as a command that starts the Python beside the script, and by Python as a text without meaning.

The link is followed once, so script and Python are of one version, even if `current` moves in between.
"""

_ENV_TRAMPOLINE = b'#!/usr/bin/env -S sh -c \'self=$(readlink -f "$0") && exec "${self%/*}/python" "$self" "$@"\'\n'
"""The same in one line, for scripts that a text before their own would break; BusyBox does not know `env -S`."""

_SHEBANG = re.compile(rb"#![^\n]*\bpython[0-9.]*[^\n]*\n")
_LONG_SHEBANG = re.compile(rb"#!\s*/bin/sh\n'''exec' [^\n]*python[^\n]*\n' '''\n")


def relocate(folder: Path, site: Path | None, exclude: Sequence[str] = ()) -> None:
    """Do it in place. `site`: the site-packages in it. `exclude`: patterns of paths there, `*` crosses folders."""
    for path in list(_below(folder)):
        if path.is_symlink():
            make_relative(path, folder)
        elif path.is_file() and (_compiled(path) or (site is not None and _unwanted(path, site, exclude))):
            path.unlink()
    scripts = folder / "bin"
    for path in sorted(scripts.iterdir()) if scripts.is_dir() else ():
        if path.is_file() and not path.is_symlink():
            _find_python_beside(path)
    if site is not None:
        for record in sorted(site.glob("*.dist-info/RECORD")):
            if not record.is_symlink():
                _rewrite(record, site)
    _remove_empty(folder)
    for path in (folder, *_below(folder)):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        for name in (*sorted(folders), *sorted(files)):
            yield Path(parent, name)


def _compiled(path: Path) -> bool:
    return path.suffix in (".pyc", ".pyo")


def _unwanted(path: Path, site: Path, exclude: Sequence[str]) -> bool:
    if not path.is_relative_to(site):
        return False
    if path.parent.name.endswith(".dist-info") and path.parent.parent == site:
        return path.name in _LEFT_BEHIND  # the rest of a package's own words stays, whatever is excluded
    within = path.relative_to(site).as_posix()
    return any(fnmatchcase(within, pattern) for pattern in exclude)


def make_relative(link: Path, folder: Path) -> None:
    """An absolute link into the folder becomes a relative one; UsageError for one that leaves it."""
    target = os.readlink(link)  # noqa: PTH115 - Path would take what is no normal path for one
    absolute = os.path.normpath(link.parent / target)
    if not Path(absolute).is_relative_to(folder):
        raise UsageError(
            f"{link.relative_to(folder)} is a link to {target}, outside of the environment, which would not be on a "
            "device: put a copy in its place."
        )
    relative = os.path.relpath(absolute, link.parent)
    if relative != target:
        link.unlink()
        link.symlink_to(relative)


def _find_python_beside(path: Path) -> None:
    """Give a Python script a first line that finds the `python` beside it, wherever that is."""
    with path.open("rb") as file:
        if file.read(2) != b"#!":
            return
    content = path.read_bytes()
    found = _LONG_SHEBANG.match(content) or _SHEBANG.match(content)
    if found is not None:
        rest = content[found.end() :]
        path.write_bytes((TRAMPOLINE if _compiles(TRAMPOLINE + rest) else _ENV_TRAMPOLINE) + rest)
        path.chmod(0o755)


def _compiles(source: bytes) -> bool:
    """Whether it is still Python: `from __future__` has to be the first statement."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "script", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _rewrite(record: Path, site: Path) -> None:
    """RECORD of what is there, sorted, with sizes and without digests: the signed manifest has a digest of every byte,
    and a digest says the same again in bytes that nothing shortens (of a bump of pip they were a tenth).

    Both may be left empty: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    try:
        with record.open(encoding="utf-8", newline="") as file:
            names = {row[0] for row in csv.reader(file) if row}
    except (ValueError, csv.Error) as error:
        raise UsageError(
            f"{record.relative_to(site)} is no list of files ({error}); leave that package out."
        ) from error
    rows = list(_rows(sorted(names), record, site))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    record.write_text(text.getvalue(), encoding="utf-8", newline="")


def _rows(names: Iterable[str], record: Path, site: Path) -> Iterator[tuple[str, str, str]]:
    for name in names:
        path = Path(os.path.normpath(site / name))
        if path == record:
            yield name, "", ""
        elif path.is_file() and (path.is_relative_to(site.parents[2])):
            yield name, "", str(path.stat().st_size)


def _remove_empty(folder: Path) -> None:
    for parent, _, _ in list(os.walk(folder, topdown=False)):
        if Path(parent) != folder and not any(Path(parent).iterdir()):
            shutil.rmtree(parent)
