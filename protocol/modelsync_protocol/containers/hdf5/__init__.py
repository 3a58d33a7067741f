"""Datasets of HDF5 files: contiguous ones and the chunks of chunked ones. No I/O here.

https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html; what is not read here (virtual datasets, dense
attributes, chunk indexes of layout 4 but a single chunk and a plain fixed array) is opaque.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelsync_protocol.containers.hdf5.datasets import CHECKSUM, DEFLATE, SHUFFLE, Dataset, datasets
from modelsync_protocol.containers.ranges import TensorRange

__all__ = ["CHECKSUM", "DEFLATE", "MAGIC", "SHUFFLE", "Dataset", "datasets", "tensors"]

MAGIC = b"\x89HDF\r\n\x1a\n"


def tensors(data: memoryview) -> Iterator[TensorRange]:
    """Yield contiguous datasets and chunks that no filter changed; raise FormatError if it is no HDF5 file."""
    for dataset in datasets(data):
        if dataset.filters:
            continue
        chunked = dataset.chunk_shape is not None
        for number, chunk in enumerate(dataset.chunks):
            name = f"{dataset.name}[{number}]" if chunked else dataset.name
            yield TensorRange(name, chunk.offset, chunk.size, dataset.dtype, dataset.chunk_shape or dataset.shape)
