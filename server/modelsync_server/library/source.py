"""What may be given to publish, as a path: a file, a directory, or an open binary file's bytes under a name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from modelsync_protocol import caps, names
from modelsync_protocol.errors import FormatError, UsageError
from modelsync_server.scratch.places import temporary_folder
from modelsync_server.store.durable import local_error

_BLOCK = 4 * caps.MIB


@contextlib.contextmanager
def as_path(source: str | Path | BinaryIO, file_name: str | None) -> Iterator[Path]:
    """Yield the path of what is to be published; UsageError if a name is lacking or too much, LocalError."""
    if isinstance(source, str | Path):
        if file_name is not None:
            raise UsageError("a file name is for bytes from a stream: a path has a name of its own.")
        yield Path(source)
        return
    if not hasattr(source, "read"):
        raise UsageError(f"{type(source).__name__} can't be published: give a path or an open binary file.")
    if file_name is None:
        raise UsageError("bytes from a stream need a file name, such as model.onnx: its suffix tells the format.")
    try:
        names.check_relative_path(file_name)
    except FormatError as error:
        raise UsageError(f"the file name {error}") from error
    if "/" in file_name:
        raise UsageError(f"the file name {file_name!r} holds a '/': give a name without a folder.")
    with temporary_folder("modelsync-stream-") as scratch:
        path = scratch / file_name
        _copy(source, path)
        yield path


def _copy(source: BinaryIO, path: Path) -> None:
    try:
        with path.open("wb") as out:
            while block := source.read(_BLOCK):
                if not isinstance(block, bytes):
                    raise UsageError("the stream gives text: open it in binary mode.")
                if out.tell() + len(block) > caps.MAX_ARTIFACT_BYTES:
                    raise UsageError("the stream is longer than an artifact may be.")
                out.write(block)
    except OSError as error:
        raise local_error(path, error) from error
