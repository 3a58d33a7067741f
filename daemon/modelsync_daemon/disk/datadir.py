"""The data directory's layout (docs/interfaces.md §1): lock, versions, pointers, garbage, free space.

It knows no states and no network; what a version holds is the assembler's business.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modelsync_daemon.disk import pointer as pointers
from modelsync_daemon.disk.durable import (
    TEMPORARY_PREFIX,
    durable_symlink,
    durable_unlink,
    durable_write,
    fsync_directory,
)
from modelsync_daemon.disk.pointer import Pointer, Reference
from modelsync_protocol import names
from modelsync_protocol.errors import FormatError, LocalError, ModelsyncError

_VERSION_DIR = re.compile(r"([1-9][0-9]{0,15})-([0-9a-f]{64})")
_TRASH = ".trash-"
RESERVE_BYTES = 8 * 1024 * 1024
"""Free space that an installation leaves for the database, logs and everybody else, bytes."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A complete version on the disk: its folder `path` and its canonical manifest `manifest_path`."""

    name: str
    version: int
    digest: str
    path: Path
    manifest_path: Path

    @property
    def reference(self) -> Reference:
        """The version as a pointer names it."""
        return Reference(self.version, self.digest)


class Lock:
    """The held lock of a data directory. A child may inherit `fileno()`: the lock lives until both closed it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor that carries the lock."""
        return self._descriptor

    def close(self) -> None:
        """Give the lock up (a child that inherited it still holds it); may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DataDir:
    """Paths and durable changes below one root. Only who holds `lock()` may call what changes something."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def state_db(self) -> Path:
        """The database's file."""
        return self.root / "state.db"

    @property
    def trust(self) -> Path:
        """Folder of TUF metadata."""
        return self.root / "trust"

    @property
    def models(self) -> Path:
        """Folder of installed models."""
        return self.root / "models"

    @property
    def zlib_verdict(self) -> Path:
        """What was found of this machine's zlib (zlib_verdict.py)."""
        return self.root / "machine" / "zlib"

    @property
    def tls_session(self) -> Path:
        """The TLS session of the last visit to the origin (tls_session.py); a secret."""
        return self.root / "machine" / "tls-session"

    @property
    def socket(self) -> Path:
        """The daemon's Unix socket."""
        return self.root / "daemon.sock"

    def create(self) -> None:
        """Make the root and its folders if they are missing. Raises LocalError."""
        try:
            for folder in (self.root, self.models):
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            for folder in (
                self.trust,
                self.root / "incoming",
                self.zlib_verdict.parent,
            ):  # nobody else's business, inference's neither
                folder.mkdir(mode=0o700, exist_ok=True)
                if folder.stat().st_mode & 0o077:  # of a former version
                    folder.chmod(0o700)
        except OSError as error:
            raise LocalError(f"{self.root} can't be used as data directory: {error.strerror}.") from error

    def lock(self) -> Lock:
        """Take the directory's lock, making the directory if needed; LocalError if somebody else holds it."""
        self.create()
        try:
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LocalError(f"{self.root}/lock can't be opened: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise LocalError(
                f"{self.root} is in use by another modelsyncd (pid {holder}); stop it or use another."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return Lock(descriptor)

    def model_names(self) -> list[str]:
        """Names of models that have a folder, sorted."""
        return sorted(entry.name for entry in _entries(self.models) if entry.is_dir() and _is_model(entry.name))

    def model_dir(self, name: str) -> Path:
        """The folder of model `name` (it may not exist)."""
        return self.models / names.check_model_name(name)

    def version_dir(self, name: str, version: int, digest: str) -> Path:
        """Where a version's files lie once installed; the folder's presence means that it is complete."""
        return self.model_dir(name) / Reference(version, digest).path

    def manifest_path(self, name: str, version: int, digest: str) -> Path:
        """Where a version's canonical manifest lies."""
        return self.model_dir(name) / f"{Reference(version, digest).path}.manifest"

    def incoming(self, name: str) -> Path:
        """The folder for half-built versions of `name`, made if missing; the same file system as models/."""
        path = self.root / "incoming" / names.check_model_name(name)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def installed(self, name: str) -> list[Installed]:
        """Complete versions of `name`, newest number first."""
        found = []
        for entry in _entries(self.model_dir(name)):
            match = _VERSION_DIR.fullmatch(entry.name)
            manifest = entry.with_name(f"{entry.name}.manifest")
            if match and not entry.is_symlink() and entry.is_dir() and manifest.is_file():
                found.append(Installed(name, int(match[1]), match[2], entry, manifest))
        return sorted(found, key=lambda item: (-item.version, item.digest))

    def all_installed(self) -> list[Installed]:
        """Complete versions of every model."""
        return [item for name in self.model_names() for item in self.installed(name)]

    def find(self, name: str, reference: Reference) -> Installed | None:
        """The installed version that `reference` names, or None."""
        return next((item for item in self.installed(name) if item.reference == reference), None)

    def read_pointer(self, name: str, which: str = "current") -> Pointer | None:
        """The pointer `current` or `candidate`; None if absent or damaged (then a previous report stands)."""
        try:
            with (self.model_dir(name) / f"{which}.json").open("rb") as file:
                found = pointers.decode(file.read(pointers.MAX_POINTER_BYTES + 1))
        except (OSError, FormatError):
            return None
        return found if found.name == name else None

    def write_current(self, pointer: Pointer) -> None:
        """Make `pointer` the authority: current.json, then the symlink `current`. May be repeated."""
        folder = self.model_dir(pointer.name)
        durable_write(folder / "current.json", pointers.encode(pointer))
        durable_symlink(folder / "current", pointer.reference.path)

    def follow_pointer(self, name: str) -> None:
        """Make the symlink `current` follow current.json, if a crash came between the two. Raises LocalError."""
        pointer, link = self.read_pointer(name), self.model_dir(name) / "current"
        if pointer is not None and not (link.is_symlink() and link.readlink() == Path(pointer.reference.path)):
            durable_symlink(link, pointer.reference.path)

    def write_candidate(self, pointer: Pointer) -> None:
        """Ask the inference process to probe `pointer`'s version."""
        durable_write(self.model_dir(pointer.name) / "candidate.json", pointers.encode(pointer))

    def remove_candidate(self, name: str) -> None:
        """Nothing is to be probed (any more)."""
        if (self.model_dir(name) / "candidate.json").exists():
            durable_unlink(self.model_dir(name) / "candidate.json")

    def check_space(self, needed: int) -> None:
        """Raise LocalError unless `needed` bytes fit and a small reserve stays free."""
        free = shutil.disk_usage(self.root).free
        if free < needed + RESERVE_BYTES:
            raise LocalError(f"{self.root} has {free} bytes free but needs {needed + RESERVE_BYTES}; free some space.")

    def prune(self, name: str, keep: Iterable[Reference] = ()) -> list[Reference]:
        """Remove every version that neither a pointer nor `keep` names; returns what was removed.

        Without a readable current.json nothing is removed: nobody knows what serves.
        """
        wanted = set(keep)
        if self.read_pointer(name) is None:
            return []
        for which in ("current", "candidate"):
            found = self.read_pointer(name, which)
            if found is not None:
                wanted |= {found.reference} | ({found.previous} if found.previous else set())
        doomed = [item for item in self.installed(name) if item.reference not in wanted]
        for item in doomed:
            self._discard(item.path)
            self._discard(item.manifest_path)
        return [item.reference for item in doomed]

    def remove_model(self, name: str) -> None:
        """Remove `name` with all its versions and half-built ones; the pointer goes first."""
        folder = self.model_dir(name)
        if folder.is_dir():
            for pointer in ("candidate.json", "current.json"):
                if (folder / pointer).exists():
                    durable_unlink(folder / pointer)
            self._discard(folder)
        shutil.rmtree(self.root / "incoming" / name, ignore_errors=True)

    def clean(self) -> None:
        """At start: remove what a crash left (temp files, trash, folders without manifest or the reverse), and
        make each link `current` follow its pointer. Raises LocalError."""
        for name in self.model_names():
            self.follow_pointer(name)
            folder = self.model_dir(name)
            named = set()
            for which in ("current", "candidate"):
                found = self.read_pointer(name, which)
                if found is not None:
                    named |= {found.reference.path} | ({found.previous.path} if found.previous else set())
            complete = {item.path.name for item in self.installed(name)}
            for entry in _entries(folder):
                stem = entry.name.removesuffix(".manifest")
                lost = _VERSION_DIR.fullmatch(stem) and stem not in complete and stem not in named
                if lost or entry.name.startswith((TEMPORARY_PREFIX, _TRASH)):
                    self._discard(entry)
        for folder in (self.root, self.models):
            for entry in _entries(folder):
                if entry.name.startswith((TEMPORARY_PREFIX, _TRASH)):
                    self._discard(entry)

    def _discard(self, path: Path) -> None:
        """Rename to trash, so that a half-removed version never looks complete, then delete."""
        trash = self.root / f"{_TRASH}{secrets.token_hex(6)}"
        try:
            path.replace(trash)
            fsync_directory(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LocalError(f"{path} can't be removed ({error.strerror}); fix its permissions.") from error
        if trash.is_dir() and not trash.is_symlink():
            for folder, _, _ in os.walk(trash):  # an artifact may hold folders without write permission
                with contextlib.suppress(OSError):
                    Path(folder).chmod(0o700)
            shutil.rmtree(trash, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                trash.unlink()


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_model(name: str) -> bool:
    try:
        names.check_model_name(name)
    except ModelsyncError:
        return False
    return True
