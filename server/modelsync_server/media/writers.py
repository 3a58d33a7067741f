"""Writes an export as a folder or as one file, so that whoever pulls the stick out finds the old one or the new one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from modelsync_protocol import media
from modelsync_protocol.errors import FormatError, LocalError, UsageError
from modelsync_server.media.selection import Selection
from modelsync_server.store import Store, durable
from modelsync_server.store.port import changes

_PART_BYTES = 4 << 20
_FOLDERS = ("metadata", "bundles", "manifests", "packs", "updates")
_UNFINISHED = "modelsync-media.part"
_FAT = frozenset({"vfat", "msdos", "fat", "umsdos"})
_FAT_MOST = 2**32 - 1

Progress = Callable[[str, int, int], None]


async def write_file(store: Store, chosen: Selection, out: Path, progress: Progress) -> int:
    """Write the file `out` whole, or leave what was there; its bytes. LocalError, UsageError."""
    entries = sorted(chosen.objects.items())
    index = media.encode(chosen.medium)
    total = sum(media.BLOCK_BYTES + media.padded(size) for _, size in [("", len(index)), *entries]) + len(media.END)
    if total > _FAT_MOST and filesystem(out.parent) in _FAT:
        raise UsageError(
            f"{out} would have {total:,} bytes and its FAT file system takes 4 GiB for one file; name a folder instead "
            "(without .tar), whose files are small, or give --size 4G."
        )
    _check_room(out.parent, total)  # the old file stays until the new one is whole
    done = 0
    with durable.replacing(out) as file, _sentences(out):
        file.write(media.header(media.INDEX, len(index)) + _filled(index))
        for path, size in entries:
            try:
                file.write(media.header(path, size))
            except ValueError as error:
                raise UsageError(f"{error}; leave that version out.") from error
            async for part in _parts(store, chosen, path, size):
                file.write(part)
                done += len(part)
                progress("writing", done, chosen.bytes)
            file.write(bytes(media.padded(size) - size))
        file.write(media.END)
    return total


async def write_folder(store: Store, chosen: Selection, out: Path, progress: Progress) -> int:
    """Bring the folder `out` to what was chosen; bytes written. What lies there whole is kept, so this goes on too.

    The index comes last, and only then goes what it no longer names; a folder that is something else is refused.
    """
    _check_folder(out, chosen.medium.store)
    with _sentences(out):
        durable.make_folder(out)
    ours = [path for path, size in chosen.objects.items() if _size(out / path) != size]
    _check_room(out, sum(chosen.objects[path] for path in ours))
    durable.write(out / _UNFINISHED, chosen.medium.store.encode())
    written = done = 0
    # What is replaced comes last, behind all that it may lead to.
    for path in sorted(chosen.objects, key=lambda path: (changes(path), path)):
        size = chosen.objects[path]
        if not await _lies(store, chosen, path, out / path):
            with durable.replacing(out / path) as file, _sentences(out):
                async for part in _parts(store, chosen, path, size):
                    file.write(part)
            written += size
        done += size
        progress("writing", done, chosen.bytes)
    index = media.encode(chosen.medium)
    if _read(out / media.INDEX) != index:
        durable.write(out / media.INDEX, index)
        written += len(index)
    for stale in _stale(out, chosen):
        stale.unlink(missing_ok=True)
    (out / _UNFINISHED).unlink(missing_ok=True)
    return written


def filesystem(folder: Path) -> str:
    """The type of the file system that a folder lies on, as /proc names it; empty if that can't be said."""
    folder, best, kind = folder.absolute(), "", ""
    with contextlib.suppress(OSError):
        folder = folder.resolve()
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            left, _, right = line.partition(" - ")
            mounted = left.split(" ")[4].replace("\\040", " ")
            if folder.is_relative_to(mounted) and len(mounted) >= len(best):
                best, kind = mounted, right.split(" ")[0]
    return kind


def block_bytes(folder: Path) -> int:
    """What a file's size is rounded up to where `folder` lies (or will)."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return max(512, os.statvfs(folder).f_frsize)


async def _parts(store: Store, chosen: Selection, path: str, size: int) -> AsyncIterator[bytes]:
    """An object's bytes, exactly `size` of them; FormatError if the store has others meanwhile."""
    if path in chosen.inline:
        yield chosen.inline[path]
        return
    for start in range(0, size, _PART_BYTES):
        length = min(_PART_BYTES, size - start)
        part = await store.get_range(path, start, length)
        if len(part) != length:
            raise FormatError(f"{path} is shorter in the store than it was; run `modelsync verify`.")
        yield part


async def _lies(store: Store, chosen: Selection, path: str, place: Path) -> bool:
    """Whether the very bytes lie there: a stick may have lost what it had."""
    if _size(place) != chosen.objects[path]:
        return False
    found, meant = hashlib.sha256(), hashlib.sha256()
    try:
        with place.open("rb") as file:
            while part := file.read(_PART_BYTES):
                found.update(part)
    except OSError:
        return False
    folder, _, name = path.partition("/")
    if folder == "packs":
        return found.hexdigest() == name
    async for part in _parts(store, chosen, path, chosen.objects[path]):
        meant.update(part)
    return found.digest() == meant.digest()


def _check_folder(out: Path, store: str) -> None:
    if out.is_dir():
        owner = _read(out / _UNFINISHED)
        index = _read(out / media.INDEX)
        if index is not None:
            try:
                owner = media.decode(index).store.encode()
            except FormatError:
                owner = owner or b"?"  # garbled: it was an export, and becomes one again
                owner = store.encode() if owner == b"?" else owner
        if owner is None and any((out / folder).exists() for folder in _FOLDERS):
            raise UsageError(f"{out} holds something that is no export; name an empty folder.")
        if owner is not None and owner.decode("ascii", "replace") != store:
            raise UsageError(f"{out} holds an export of another store; empty it, or name another folder.")
    elif out.exists():
        raise UsageError(f"{out} is a file; name a folder, or end the name in .tar for one file.")


def _check_room(folder: Path, needed: int) -> None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise LocalError(
            f"{folder} has {free:,} bytes free and the export needs {needed:,} more; free some, or give --size."
        )


def _stale(out: Path, chosen: Selection) -> Iterator[Path]:
    """Objects of an earlier export, and what a broken one left behind."""
    for folder in _FOLDERS:
        for place in sorted((out / folder).rglob("*")):
            if place.is_file() and place.relative_to(out).as_posix() not in chosen.objects:
                yield place
    yield from out.glob(f"{durable.TEMP_PREFIX}*")


@contextlib.contextmanager
def _sentences(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise UsageError(
                f"{out} can't hold a file of this size (FAT takes 4 GiB); name a folder instead, without .tar."
            ) from error
        raise durable.local_error(out, error) from error


def _filled(data: bytes) -> bytes:
    return data + bytes(media.padded(len(data)) - len(data))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
