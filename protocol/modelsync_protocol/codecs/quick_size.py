"""Quick estimates of what zstd makes of data, to choose between ways to prepare it. No I/O here."""

from __future__ import annotations

import zstandard

_LEVEL = 3
_WINDOW_LOGS = (10, 23)


def quick_size(data: bytes, dictionary: bytes = b"") -> int:
    """Bytes that a fast attempt gives, with `dictionary` as raw prefix."""
    reach = (len(data) + len(dictionary)).bit_length()
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        window_log=min(max(reach, _WINDOW_LOGS[0]), _WINDOW_LOGS[1]),
        write_content_size=False,
        write_checksum=False,
    )
    if not dictionary:
        return len(zstandard.ZstdCompressor(compression_params=parameters).compress(data))
    raw = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return len(zstandard.ZstdCompressor(dict_data=raw, compression_params=parameters).compress(data))
