"""Builds a target's tree on the disk: empty files, links to unchanged ones, ranges of bytes, and the final move.

It knows no plan and no network. Bytes are unverified until `digests` of the reader agree with the manifest.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelsync_daemon.build.seeds import StreamReader
from modelsync_daemon.disk.durable import durable_write, fsync_directory
from modelsync_protocol.errors import LocalError
from modelsync_protocol.manifest import EmptyDirectory, Link, Manifest, RegularFile

_BUILD_MODE = 0o600
_COPY_BYTES = 64 * 1024


class Assembly:
    """The tree of `manifest` (its digests may be unknown) in the making at `root`. May be opened again after a kill."""

    def __init__(self, manifest: Manifest, root: Path) -> None:
        self.manifest = manifest
        self.root = root
        self.reader = StreamReader(manifest, root)
        self._dirty: set[int] = set()

    def prepare(self, *, durable: bool = True) -> None:
        """Make folders, links, and files of full size; what is there already stays. `durable` for a journal, which
        counts bytes of a file in vain if a power cut takes the file's name. Raises LocalError."""
        with local_errors(self.root):
            for entry in self.manifest.entries:
                path = self.root / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(entry, EmptyDirectory):
                    path.mkdir(exist_ok=True)
                elif isinstance(entry, Link):
                    if not path.is_symlink():
                        path.symlink_to(entry.target)
                else:
                    self._allocate(path, entry)
            for folder in self._folders() if durable else ():
                fsync_directory(folder)

    def link(self, number: int, source: Path) -> bool:
        """Make file `number` a hard link to `source` (an installed file); False where that is not possible."""
        path = self.root / self.manifest.files[number].path
        temporary = path.with_name(f".{path.name[:200]}.link")
        try:
            if path.samefile(source):  # linked before a kill; renaming onto itself would leave the temporary name
                return True
            temporary.unlink(missing_ok=True)
            temporary.hardlink_to(source)
            temporary.replace(path)
        except OSError:
            return False
        self.reader.forget(number)
        self._dirty.discard(number)
        return True

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes into the stream at `offset`; durable after `sync`. Raises LocalError (disk full)."""
        with local_errors(self.root):
            done = 0
            for number, file, inside, count in self.reader.pieces(offset, len(data)):
                descriptor = self._writable(number, file)
                try:
                    part = memoryview(data)[done : done + count]
                    while part:
                        written = os.pwrite(descriptor, part, inside)
                        inside += written
                        part = part[written:]
                finally:
                    os.close(descriptor)
                self._dirty.add(number)
                done += count

    def sync(self) -> None:
        """Make all writes so far durable. Raises LocalError."""
        with local_errors(self.root):
            for number in sorted(self._dirty):
                descriptor = os.open(self.root / self.manifest.files[number].path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
            self._dirty.clear()

    def finish(self, manifest: Manifest, destination: Path, manifest_path: Path) -> None:
        """Move the verified tree to `destination`, with its manifest beside; durable when this returns."""
        self.reader.close()
        with local_errors(self.root):
            self._settle()
            for folder in self._folders():
                fsync_directory(folder)
            destination.parent.mkdir(parents=True, exist_ok=True)
            fsync_directory(destination.parent.parent)
            if destination.exists():  # without its manifest it was never complete
                shutil.rmtree(destination)
                fsync_directory(destination.parent)
            # Both names are made durable together: a version counts once both are there, whichever came first.
            durable_write(manifest_path, manifest.encoded, settle=False)
            self.root.rename(destination)
            fsync_directory(destination.parent)

    def mend(self, manifest: Manifest, destination: Path, manifest_path: Path) -> None:
        """Put what is better in the verified tree in the place of what lies in `destination`, file by file.

        Each file is replaced at once, so whoever opens one finds the old or the new; who has one open keeps it.
        """
        self.reader.close()
        with local_errors(self.root):
            self._settle()
            for entry in manifest.entries:
                ours, theirs = self.root / entry.path, destination / entry.path
                theirs.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(entry, EmptyDirectory):
                    theirs.mkdir(exist_ok=True)
                elif not (isinstance(entry, RegularFile) and theirs.exists() and ours.samefile(theirs)):
                    ours.replace(theirs)
            for folder, _, _ in os.walk(destination, topdown=False):
                fsync_directory(Path(folder))
            durable_write(manifest_path, manifest.encoded)

    def _allocate(self, path: Path, entry: RegularFile) -> None:
        try:
            info = path.lstat()
        except FileNotFoundError:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _BUILD_MODE)
            try:
                os.ftruncate(descriptor, entry.size)
            finally:
                os.close(descriptor)
        else:
            if info.st_size != entry.size and info.st_nlink == 1:
                os.truncate(path, entry.size)

    def _writable(self, number: int, file: RegularFile) -> int:
        """A descriptor to write file `number`; a file that others link to is copied first, never changed."""
        path = self.root / file.path
        info = path.lstat()
        if info.st_nlink > 1 or info.st_size != file.size:
            self.reader.forget(number)
            return _own_copy(path, file.size)
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def _settle(self) -> None:
        """Give our own files their modes, and make both content and modes durable; linked ones have theirs."""
        for number, file in enumerate(self.manifest.files):
            path = self.root / file.path
            info = path.lstat()
            if info.st_nlink > 1 or (number not in self._dirty and info.st_mode & 0o777 == file.mode):
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fchmod(descriptor, file.mode)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._dirty.clear()

    def _folders(self) -> Iterator[Path]:
        for folder, _, _ in os.walk(self.root, topdown=False):
            yield Path(folder)


def _own_copy(path: Path, size: int) -> int:
    """Replace the link `path` by a copy of `size` bytes; a descriptor to write it. What can't be read becomes zeros."""
    temporary = path.with_name(f".{path.name[:200]}.copy")
    temporary.unlink(missing_ok=True)
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _BUILD_MODE)
        for at in range(0, size, _COPY_BYTES):
            try:
                data = os.pread(source, min(_COPY_BYTES, size - at), at)
            except OSError:
                data = b""
            os.pwrite(target, data, at)
        os.ftruncate(target, size)
    finally:
        os.close(source)
    temporary.replace(path)
    return target


@contextmanager
def local_errors(root: Path) -> Iterator[None]:
    """Say plainly what this machine lacks."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LocalError(f"the disk of {root} is full; free some space, the update then goes on.") from error
        raise LocalError(
            f"{error.filename or root} can't be written ({error.strerror}); check disk and rights."
        ) from error
