"""Pairs of models in compressed containers, old and new, as their usual writers make them. Seeded."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
Writer = Callable[[Weights], bytes]


def weights(seed: int, step: float = 0.0, *, rows: int = 160) -> Weights:
    """Four matrices of normal weights, moved by `step` of noise."""
    first, second = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    found = {}
    for name in ("a", "b", "c", "d"):
        old = first.normal(0, 0.05, (rows, 128)).astype(np.float32)
        found[name] = old + (step * second.normal(0, 1, old.shape)).astype(np.float32) * np.float32(bool(step))
    return found


def npz(values: Weights) -> bytes:
    """`numpy.savez_compressed`."""
    out = io.BytesIO()
    np.savez_compressed(out, **values)  # type: ignore[arg-type]  # a keyword may also be allow_pickle
    return out.getvalue()


def gzipped(values: Weights, level: int = 9) -> bytes:
    """`gzip.compress` of the arrays' bytes in half precision."""
    return gzip.compress(_raw(values), level, mtime=0)


def named_gzip(values: Weights) -> bytes:
    """A gzip file with a name and a time in its header, flushed in the middle of writing and before the end."""
    out = io.BytesIO()
    with gzip.GzipFile("weights.bin", "wb", 6, out, mtime=1_700_000_000) as file:
        file.write(_raw(values))
        file.flush()
    return out.getvalue()


def zlib_pickle(values: Weights, level: int = 3) -> bytes:
    """A pickle in one zlib stream, as joblib writes it."""
    return zlib.compress(pickle.dumps(values, protocol=5), level)


def mixed_zip(values: Weights) -> bytes:
    """Stored and deflated entries of several levels, one with a data descriptor, and a comment."""
    out = io.BytesIO()
    with zipfile.ZipFile(_Unseekable(out), "w") as file:
        for number, (name, array) in enumerate(values.items()):
            kind = zipfile.ZIP_STORED if number == 1 else zipfile.ZIP_DEFLATED
            info = zipfile.ZipInfo(f"weights/{name}.bin")
            file.writestr(info, array.tobytes(), kind, compresslevel=(1, 6, 9, 4)[number])
        file.writestr(zipfile.ZipInfo("labels.txt"), "\n".join(map(str, range(100))), zipfile.ZIP_DEFLATED)
        file.comment = b"made by a test"
    return out.getvalue()


WRITERS: dict[str, Writer] = {
    "model.npz": npz,
    "model.bin.gz": gzipped,
    "named.bin.gz": named_gzip,
    "model.joblib": zlib_pickle,
    "model.zip": mixed_zip,
}
"""File name → writer."""


def _raw(values: Weights) -> bytes:
    return b"".join(array.astype(np.float16).tobytes() for array in values.values())


class _Unseekable(io.RawIOBase):
    """A pipe: zip files are then written with data descriptors."""

    def __init__(self, out: io.BytesIO) -> None:
        super().__init__()
        self._out = out

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._out.write(data)  # type: ignore[arg-type]  # what RawIOBase says of its argument has no name
