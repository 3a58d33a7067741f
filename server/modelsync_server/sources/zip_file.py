"""`zip:FILE`: the files in a zip file of this machine, as a tree: what services that train give for download.

Unpacked, its model is served and only what changed of it travels. Whoever made the zip is a stranger: regular files
only, every byte counted, nothing followed. Source: PKWARE's APPNOTE 6.3.
"""

from __future__ import annotations

import asyncio
import hashlib
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_server.sources.port import Resolved, Scratch
from modelsync_server.store.durable import local_error

_BLOCK = caps.MIB
_ENCRYPTED = 0x1
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_BOMB_BYTES, _BOMB_TIMES = 256 * caps.MIB, 100
"""Weights shrink to a half or a tenth; what shrinks to a hundredth and is so large unpacked is made to hurt."""


class ZipFile:
    """A zip file."""

    def __init__(self, text: str) -> None:
        """`text` is what follows `zip:`; UsageError."""
        if not text:
            raise UsageError("'zip:' names no file: write zip:FILE.")
        self._path = Path(text)

    @property
    def uri(self) -> str:
        """See Source. Where it lies here is nobody's business."""
        return f"zip:{self._path.name}"

    async def resolve(self) -> Resolved:
        """Its digest now."""
        return Resolved("a zip file", f"sha256:{await asyncio.to_thread(_digest, self._path)}")

    async def fetch(self, resolved: Resolved, scratch: Scratch) -> Path:
        """See Source."""
        await asyncio.to_thread(unpack, self._path, scratch)
        if f"sha256:{await asyncio.to_thread(_digest, self._path)}" != resolved.revision:
            raise UsageError(f"{self._path.name} changed while it was read; publish it again when it is whole.")
        return scratch.folder


def unpack(path: Path, scratch: Scratch) -> None:
    """Unpack the zip file at `path`. Blocks.

    RefusedError for links, names that lead out, files that come twice, bombs, damage; UsageError beyond the bounds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check(path, entries)
            scratch.announce(sum(entry.file_size for entry in entries), len(entries))
            for entry in entries:
                with archive.open(entry) as content, scratch.place(entry.orig_filename).open("xb") as out:
                    while block := content.read(_BLOCK):
                        scratch.count(len(block))
                        out.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, LookupError) as error:
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise FormatError(f"{path.name} is no whole zip file ({said:.80}); fetch it again.") from error
    except OSError as error:
        raise _unreadable(path, error) if error.filename == str(path) else local_error(scratch.folder, error) from error


def _check(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """What the directory says, before a byte is unpacked."""
    if not entries:
        raise UsageError(f"{path.name} has no files.")
    for entry in entries:
        name = entry.orig_filename
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise RefusedError(f"{path.name} has {name!r:.80}, which is no plain file: fetched models have no links.")
        if entry.flag_bits & _ENCRYPTED:
            raise UsageError(f"{path.name} has {name!r:.80}, which is encrypted; publish an unencrypted one.")
        if entry.compress_type not in _METHODS:
            raise UsageError(f"{path.name} packs {name!r:.80} by method {entry.compress_type}; use deflate.")
    size, packed = (sum(getattr(entry, key) for entry in entries) for key in ("file_size", "compress_size"))
    packed = min(
        packed, path.stat().st_size
    )  # entries that lie over each other are counted by the file that holds them
    if size > max(_BOMB_BYTES, _BOMB_TIMES * packed):
        raise RefusedError(
            f"{path.name} would unpack {packed:,} bytes to {size:,}: no model shrinks so far, so it is not unpacked."
        )


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    if path.exists() and not path.is_file():
        raise UsageError(f"{path.name} is no file; give zip: a zip file.")
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.hexdigest()


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path.name} can't be read: {error.strerror}.")
