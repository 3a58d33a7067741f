"""Encodings 1 (zstd), 2 (zstd with a base range and earlier target bytes as raw prefix) and 11 (stored). No I/O here.

Frames are magicless (RFC 8878 without the magic number), without content size, checksum and dictionary id: the
index and the manifest's digest already say all that.
"""

from __future__ import annotations

from collections.abc import Sequence

import zstandard

from modelsync_protocol import caps
from modelsync_protocol.codecs.port import Tables
from modelsync_protocol.errors import FormatError

_LEVEL = 19
_HOPELESS = 0.99
"""Data that shrinks less than this is not worth a second attempt."""

_MAX_WINDOW_BYTES = 64 * caps.MIB
_MIN_WINDOW_LOG = 10
_TUNINGS: tuple[dict[str, int], ...] = (
    {"search_log": 9, "target_length": 999},
    {"strategy": zstandard.STRATEGY_BTOPT},
    {"min_match": 5},
)
"""What the encoder tries on top of level 19; which wins depends on the data by up to 1 %."""

_MAX_TUNED_BYTES = 4 * caps.MIB
"""Of data and dictionary: what is larger gets the first tuning only, or a tree of 100 MB takes a quarter of an hour."""

_CHOSEN_FROM, _SAMPLE_BYTES = 256 * caps.KIB, 64 * caps.KIB
"""Data and dictionary from which on a tuning may be chosen by a sample: each attempt indexes the dictionary again."""

_MAGIC = b"\x28\xb5\x2f\xfd"
"""What our frames leave out, put back to decode: zstandard before 0.24 (32-bit Arm has 0.23) can't do without it."""

_DESCRIPTOR = b"\x00"
"""Frame_Header_Descriptor of every frame. Were a content size allowed, the decoder would allocate what it claims."""


_EMPTY_BYTES = 5
"""A frame of nothing: descriptor, window, header of one empty block."""


class Plain:
    """Encoding 1: leans on nothing."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding."""
        return compress(target, b"")

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes:
        """See codecs.port.Encoding."""
        return decompress(payload, length, b"")


class Stored:
    """Encoding 11: the bytes themselves. Leans on nothing."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding."""
        return target

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes:
        """See codecs.port.Encoding."""
        if len(payload) != length:
            raise FormatError(f"a stored frame has {len(payload)} bytes where {length} were declared.")
        return bytes(payload)


class PatchFrom:
    """Encoding 2: the dictionary is base range followed by prefix, so the nearest bytes have the shortest offsets."""

    def encode(self, target: bytes, base: bytes, prefix: bytes) -> bytes:
        """See codecs.port.Encoding."""
        return compress(target, base + prefix)

    def decode(self, payload: bytes, length: int, base: bytes, prefix: bytes, tables: Tables) -> bytes:
        """See codecs.port.Encoding."""
        return decompress(payload, length, base + prefix)


def compress(data: bytes, dictionary: bytes, tuning: int | None = None) -> bytes:
    """Compress `data` with `dictionary` as raw prefix (may be empty) into one magicless frame, the smallest found.

    `tuning`: what `tuning_for` chose; where there is much to go through, only that is tried.
    """
    if tuning is not None and len(data) + len(dictionary) > _CHOSEN_FROM:
        return _compress(data, dictionary, _TUNINGS[tuning])
    best = _compress(data, dictionary, _TUNINGS[0])
    if len(best) < _HOPELESS * len(data) and len(data) + len(dictionary) <= _MAX_TUNED_BYTES:
        best = min(best, *(_compress(data, dictionary, tuning) for tuning in _TUNINGS[1:]), key=len)
    return best


def tuning_for(data: bytes | memoryview) -> int:
    """The tuning that makes the second half of a stretch of the middle smallest, on the first half."""
    begin = max(0, (len(data) - 2 * _SAMPLE_BYTES) // 2)
    half = min(_SAMPLE_BYTES, len(data) // 2)
    before, sample = bytes(data[begin : begin + half]), bytes(data[begin + half : begin + 2 * half])
    return min(range(len(_TUNINGS)), key=lambda number: len(_compress(sample, before, _TUNINGS[number])))


def apart(sections: Sequence[bytes]) -> list[bytes]:
    """The sections, not empty, with neighbours joined where one block for both is no dearer than two.

    Literals of a block share a Huffman table: planes of noise beside planes of few values would cost both.
    """
    joined: list[tuple[int, bytes]] = []
    for section in sections:
        if not section:
            continue
        joined.append((_block_size(section), section))
        while len(joined) > 1:
            (one, first), (other, second) = joined[-2:]
            both = _block_size(first + second)
            if both > one + other:
                break
            joined[-2:] = [(both, first + second)]
    return [section for _, section in joined]


def _block_size(data: bytes) -> int:
    """About what `data` costs by itself, with its sizes; as it is if that is less."""
    return min(len(data), len(_compress(data, b"", _TUNINGS[0]))) + 3


def estimate(data: bytes, dictionary: bytes) -> int:
    """Size in bytes that a single attempt gives: to compare dictionaries by."""
    return len(_compress(data, dictionary, _TUNINGS[0]))


def _compress(data: bytes, dictionary: bytes, tuning: dict[str, int]) -> bytes:
    reach = max(_MIN_WINDOW_LOG, (len(data) + len(dictionary) - 1).bit_length())
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=len(data),
        dict_size=len(dictionary),
        window_log=reach,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
        **tuning,
    )
    if not dictionary:
        return zstandard.ZstdCompressor(compression_params=parameters).compress(data)
    raw = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=raw, compression_params=parameters).compress(data)


def decompress(payload: bytes, length: int, dictionary: bytes) -> bytes:
    """Undo `compress`; output is bounded by `length`, which must be exact."""
    if length > caps.MAX_MANIFEST_BYTES + caps.MAX_UPDATE_HEADER_BYTES:
        raise FormatError(f"a frame of {length} decoded bytes is larger than any allowed.")
    # The decoder looks for bytes behind the frame only if its output is full, which an empty one never is.
    if payload[:1] != _DESCRIPTOR or (length == 0 and len(payload) != _EMPTY_BYTES):
        raise FormatError("a zstd frame has another header than the format allows.")
    raw = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    decompressor = zstandard.ZstdDecompressor(dict_data=raw, max_window_size=_MAX_WINDOW_BYTES)
    try:
        data = decompressor.decompress(_MAGIC + payload, max_output_size=length or 1, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise FormatError(f"a zstd frame does not decode: {error}.") from error
    if len(data) != length:
        raise FormatError(f"a zstd frame has {len(data)} bytes where {length} were declared.")
    return data
