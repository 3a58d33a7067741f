"""Unpacks a tar layer that a stranger made: regular files and folders only, every byte counted, nothing followed."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

import zstandard

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError, RefusedError
from modelsync_server.sources.port import Scratch
from modelsync_server.store.durable import local_error

_BLOCK = caps.MIB
_MOST_HEADER_BYTES = 64 * caps.KIB
_LONG_HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
_MAX_WINDOW = 128 * caps.MIB
"""Of zstd: what its own command reads without being asked to."""


class _Member(tarfile.TarInfo):
    """tarfile reads the headers of long names whole: here they are short."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _LONG_HEADERS and found.size > _MOST_HEADER_BYTES:
            raise FormatError("the archive has a header that is too long.")
        return found


def unpack(archive: Path, compression: str, scratch: Scratch, below: str = "") -> list[str]:
    """Unpack `archive` (`compression`: empty, `gzip` or `zstd`) below `below`; the paths of its files. Blocks.

    RefusedError for links, devices, names that lead out, files that come twice, damage; UsageError beyond the bounds.
    """
    found = []
    try:
        with (
            archive.open("rb") as raw,
            tarfile.open(fileobj=_plain(raw, compression), mode="r|", tarinfo=_Member) as tar,
        ):
            for member in tar:
                name = _name(member.name, below)
                if member.isdir():
                    continue  # folders come with their files
                if not member.isreg() or member.issparse():
                    raise RefusedError(f"the archive's {name!r:.80} is no plain file: fetched models have no links.")
                content = tar.extractfile(member)
                assert content is not None  # it is a file
                _copy(content, scratch.place(name), scratch)
                found.append(name)
    except (tarfile.TarError, zlib.error, zstandard.ZstdError, EOFError, gzip.BadGzipFile) as error:
        raise FormatError(f"an archive of the source is damaged ({' '.join(str(error).split()):.80}).") from error
    except OSError as error:
        raise local_error(scratch.folder, error) from error
    return found


def _plain(raw: IO[bytes], compression: str) -> IO[bytes]:
    if compression == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if compression == "zstd":
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(raw, read_across_frames=True)
        return cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, reader)))
    return raw


def _name(name: str, below: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise FormatError(f"the archive names {name!r:.80}, which leads out of it.")
    return str(PurePosixPath(below) / path)


def _copy(content: IO[bytes], target: Path, scratch: Scratch) -> None:
    with target.open("xb") as out:
        while block := content.read(_BLOCK):
            scratch.count(len(block))
            out.write(block)
