"""What makes two artifacts the same: contents, names, links and the executable bit."""

from __future__ import annotations

import hashlib
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a directory's sorted entries (path, kind, executable bit, content)."""
    if path.is_file():
        return _file(path)
    whole = hashlib.sha256()
    for entry in entries(path):
        name = entry.relative_to(path).as_posix()
        if entry.is_symlink():
            whole.update(f"link {name} {entry.readlink()}\n".encode())
        elif entry.is_file():
            kind = "program" if entry.stat().st_mode & stat.S_IXUSR else "file"
            whole.update(f"{kind} {name} {_file(entry)}\n".encode())
    return whole.hexdigest()


def entries(tree: Path) -> Iterator[Path]:
    """Everything below a directory, sorted by path."""
    return iter(sorted(tree.rglob("*")))


def size(path: Path) -> tuple[int, int]:
    """Bytes and number of files."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    return sum(file.stat().st_size for file in files), len(files)


def tar(tree: Path, target: Path) -> Path:
    """A tar of a directory that depends on nothing but what `digest` covers."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries(tree):
            add(archive, entry, entry.relative_to(tree).as_posix())
    return target


def add(archive: tarfile.TarFile, path: Path, name: str, mtime: int = 0) -> None:
    """Add one entry with root as owner and a fixed time."""
    header = archive.gettarinfo(path, name)
    header.uid = header.gid = 0
    header.uname = header.gname = ""
    header.mtime = mtime
    header.mode = 0o755 if header.isdir() or header.mode & stat.S_IXUSR else 0o644
    if header.isreg():
        header.type = tarfile.REGTYPE
        header.size = path.stat().st_size
        with path.open("rb") as file:
            archive.addfile(header, file)
    else:
        archive.addfile(header)


def _file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
