"""Chooses how a target is encoded: with what is known of its tensors, or as plain bytes, whichever is smaller."""

from __future__ import annotations

from concurrent.futures import Executor

from modelsync_protocol import caps
from modelsync_protocol.codecs.quick_size import quick_size
from modelsync_server.encode import byte_candidates
from modelsync_server.encode.base_finder import BaseFinder
from modelsync_server.encode.encoder import Encoded, Source, encode_update
from modelsync_server.encode.tensor_encoder import encode_tensors
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.pairs import tensors_of

_ALWAYS_BOTH_BYTES = 4 * caps.MIB
"""Targets up to this size are encoded both ways: there the loser is within a few per cent, and trying is cheap."""

_MOSTLY_TENSORS = 0.8
"""Larger targets of which tensors make up this share are not encoded as plain bytes too: that is never smaller,
since each frame with tensors has been tried as plain bytes already."""


_SMALL_BYTES = 16 * caps.KIB
"""Where so little is left, every byte is worth another attempt."""

_FAR = 0.75
"""A real attempt at plain bytes comes out smaller than a quick one, but never by so much (`bench.encodings`)."""


def smallest_update(
    base: Source, target: Source, pool: Executor, finder: BaseFinder | None = None, effort: Effort = Effort.MAX
) -> Encoded:
    """Encode `target` for a device that holds `base`; what `finder` (None: chunks by digest) finds is copied."""
    finder = finder or BaseFinder(base.manifest, target.manifest)
    tensors = encode_tensors(base, target, pool, finder=finder, effort=effort)
    if tensors is not None and (clearly_best(target) or _far_ahead(tensors, base, target)):
        return tensors
    plain = byte_candidates.improved(encode_update(base, target, pool, finder, effort), base, target, pool, effort)
    return plain if tensors is None else min(tensors, plain, key=lambda encoded: encoded.cost)


def clearly_best(target: Source) -> bool:
    """Whether what knows tensors need not be compared with plain bytes: the target is large, and tensors mostly."""
    size = target.manifest.size
    if size <= _ALWAYS_BOTH_BYTES:
        return False
    return (
        sum(tensor.length for tensor in tensors_of(target.manifest, target.stream, guess=False))
        >= _MOSTLY_TENSORS * size
    )


def _far_ahead(tensors: Encoded, base: Source, target: Source) -> bool:
    """Whether a quick patch of the whole says that encoding as plain bytes can't catch up."""
    if tensors.cost < _SMALL_BYTES or target.manifest.size + base.manifest.size > 2 * _ALWAYS_BOTH_BYTES:
        return False
    return tensors.cost < _FAR * quick_size(bytes(target.stream), bytes(base.stream))
