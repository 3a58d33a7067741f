"""An origin on an offline medium: an export in a folder or in one file (FORMAT.md §17). No network here.

What lies there is somebody's who had the stick in his hands: paths are checked, links and what is no regular file are
not followed, and what is read is as unverified as what is fetched.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from modelsync_daemon.transfer.download import named
from modelsync_daemon.transfer.memory_body import OneSource
from modelsync_daemon.trust.resolved import ObjectMissing
from modelsync_protocol import caps, media
from modelsync_protocol.errors import FormatError, LocalError, RefusedError, UnreachableError, UsageError
from modelsync_protocol.media import Medium

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOMEDIUM)
"""What reading says of a stick that was pulled out."""


class MediaOrigin:
    """Answers as an origin that has what lies at `path`. Use as an async context manager; `medium` is its index."""

    def __init__(self, path: Path) -> None:
        """UsageError if nothing is there, FormatError if it is no export, LocalError if it may not be read."""
        self._path = path
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise UsageError(f"{path} is not there; insert the medium, or name the export on it.") from error
        except OSError as error:
            raise _trouble(path, error) from error
        self._places: dict[str, tuple[int, int]] | None = None
        try:
            self._size = os.fstat(self._root).st_size
            if stat.S_ISREG(os.fstat(self._root).st_mode):
                self._places = self._listed()
            elif not stat.S_ISDIR(os.fstat(self._root).st_mode):
                raise UsageError(f"{path} is neither a folder nor a file; name what `modelsync export` wrote.")
            self.medium: Medium = media.decode(self._index())
        except BaseException:
            self.close()
            raise

    async def __aenter__(self) -> MediaOrigin:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the medium go; may be called twice."""
        if self._root >= 0:
            os.close(self._root)
        self._root = -1

    async def get(self, path: str, limit: int) -> bytes:
        """As of ObjectSource."""
        with self._opened(path) as found:
            if found.size > limit:
                raise RefusedError(f"{named(path)} is longer than the {limit} bytes allowed for it.")
            return found.read(0, found.size)

    async def size(self, path: str) -> int | None:
        """As of ObjectSource."""
        try:
            with self._opened(path) as found:
                return found.size
        except ObjectMissing:
            return None

    def open(self, path: str, offset: int, end: int, *, whole: bool, etag: str = "") -> MediaBody:
        """As of ObjectSource. An object that was begun elsewhere (`etag`) goes on here: what counts is the digest."""
        found = self._opened(path)
        if found.size != end if whole else found.size < end:
            found.close()
            raise FormatError(f"{named(path)} has {found.size} bytes on this medium; {end} were announced.")
        return MediaBody(found, offset)

    hearsay = False

    def mistrust(self, path: str) -> bool:
        """Nobody else is known."""
        return False

    def newer_offers(self) -> bytes | None:
        """None are there; sizes are asked."""
        return None

    def _opened(self, path: str) -> _Content:
        try:
            media.check_object(path)
        except FormatError as error:  # a bundle, for one
            raise ObjectMissing(f"{named(path)} is on no medium.") from error
        missing = ObjectMissing(
            f"this medium lacks {named(path)}: what it has for this device is meant for another, or damaged; export it "
            "again for what this device holds (--devices, --bases), or whole."
        )
        if self._places is not None:
            if path not in self._places:
                raise missing
            return _Content(self._path, os.dup(self._root), *self._places[path])
        try:
            descriptor = self._walked(path)
        except (FileNotFoundError, NotADirectoryError):
            raise missing from None
        except OSError as error:
            raise _trouble(self._path, error) from error
        return _Content(self._path, descriptor, 0, os.fstat(descriptor).st_size)

    def _walked(self, path: str) -> int:
        """A descriptor of the file at `path` below the folder, without following a link on the way; OSError."""
        *folders, name = path.split("/")
        here = os.dup(self._root)
        try:
            for folder in folders:
                inner = os.open(folder, _FLAGS | os.O_DIRECTORY, dir_fd=here)
                os.close(here)
                here = inner
            found = os.open(name, _FLAGS, dir_fd=here)
        finally:
            os.close(here)
        if not stat.S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            raise FormatError(f"{named(path)} on {self._path} is no file; export to it again.")
        return found

    def _index(self) -> bytes:
        limit = caps.MAX_MEDIA_INDEX_BYTES
        try:
            if self._places is None:
                found = _Content(self._path, self._walked(media.INDEX), 0, 0)
                found.size = os.fstat(found.descriptor).st_size
            else:
                found = _Content(self._path, os.dup(self._root), *self._places[media.INDEX])
        except (OSError, KeyError) as error:
            if isinstance(error, OSError) and error.errno in _GONE:
                raise _trouble(self._path, error) from error
            raise FormatError(
                f"{self._path} holds no finished export ({media.INDEX} is missing); run `modelsync export` again."
            ) from error
        with found:
            if found.size > limit:
                raise FormatError(f"{media.INDEX} on {self._path} is longer than {limit} bytes; export again.")
            return found.read(0, found.size)

    def _listed(self) -> dict[str, tuple[int, int]]:
        """Path → offset and bytes of every entry of the file. FormatError."""
        with _Content(self._path, os.dup(self._root), 0, self._size) as content:
            return media.entries(content.read, self._size)


class _Content:
    """An object on the medium: `size` bytes from `start` of a file, which is open until `close`."""

    def __init__(self, medium: Path, descriptor: int, start: int, size: int) -> None:
        self._medium, self.descriptor, self._start, self.size = medium, descriptor, start, size

    def __enter__(self) -> _Content:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, offset: int, count: int) -> bytes:
        """Exactly those bytes; FormatError if there are fewer, UnreachableError if the medium is gone."""
        parts, done = [], 0
        while done < count:
            try:
                part = os.pread(self.descriptor, count - done, self._start + offset + done)
            except OSError as error:
                raise _trouble(self._medium, error) from error
            if not part:
                raise FormatError(f"an object on {self._medium} is cut short; export to it again.")
            parts.append(part)
            done += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """May be called twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


class MediaBody(OneSource):
    """Reads an object on a medium in order from `position` on (transfer.ObjectReader)."""

    etag = ""

    def __init__(self, content: _Content, position: int) -> None:
        self._content = content
        self.position = position

    async def read(self, count: int) -> bytes:
        """Exactly the next `count` bytes."""
        part = self._content.read(self.position, min(count, max(0, self._content.size - self.position)))
        if len(part) != count:
            raise FormatError("an object on this medium is shorter than it says; export to it again.")
        self.position += count
        return part

    def unread(self, data: bytes) -> None:
        """Give back the last bytes that were read."""
        self.position -= len(data)

    async def skip_to(self, position: int) -> None:
        """Go on at `position`."""
        self.position = position

    def close(self) -> None:
        """Let the object go."""
        self._content.close()


def _trouble(path: Path, error: OSError) -> UnreachableError | LocalError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return LocalError(f"{path} may not be read by this user; mount it so that the daemon's user may.")
    if error.errno == errno.ELOOP:
        return UnreachableError(f"{path} holds a link where an object should be; export to it again.")
    return UnreachableError(
        f"{path} can't be read any more ({error.strerror}); insert the medium again and repeat the import, "
        "which goes on where it stopped."
    )
