"""Made the HDF5 files beside it, `python tests/protocol/containers/make_hdf5.py` (needs h5py): one for each generation
of the format that h5py writes. Values are those of `values`."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "hdf5"
GENERATIONS = ("earliest", "v108", "v110")
LAYERS = 12
"""More links than a group keeps in its header."""


def values(number: int) -> NDArray[np.float32]:
    """What layer `number` holds."""
    return ((np.arange(6 + number) + 1) / (number + 3)).astype(np.float32)


def matrix() -> NDArray[np.float32]:
    """What is chunked."""
    return (np.arange(24 * 20).reshape(24, 20) % 97 / 7).astype(np.float32)


def main() -> None:
    """Write the files."""
    h5py = importlib.import_module("h5py")  # no type stubs, and no requirement of ours

    FOLDER.mkdir(exist_ok=True)
    for generation in GENERATIONS:
        with h5py.File(
            FOLDER / f"{generation}.h5", "w", libver=(generation, generation if generation != "earliest" else "v108")
        ) as file:
            for number in range(LAYERS):
                file.create_dataset(f"layers/{number:02}/kernel", data=values(number), track_times=False)
            more = {"chunks": (8, 20), "track_times": False}
            file.create_dataset("plain", data=matrix(), **more)
            file.create_dataset("gzip", data=matrix(), compression="gzip", compression_opts=4, **more)
            file.create_dataset("shuffled", data=matrix(), compression="gzip", shuffle=True, fletcher32=True, **more)
            file.create_dataset("half", data=matrix().astype(np.float16), track_times=False)


if __name__ == "__main__":
    main()
