"""Chooses how a target is encoded: with what is known of its tensors, or as plain bytes, whichever is smaller."""

from __future__ import annotations

from concurrent.futures import Executor

from modelsync_protocol import caps, codecs
from modelsync_protocol.ops import Frame
from modelsync_server import alternatives
from modelsync_server.encoder import Encoded, Source, encode_update
from modelsync_server.tensor_encoder import encode_tensors

_ALWAYS_BOTH_BYTES = 4 * caps.MIB
"""Targets up to this size are encoded both ways: there the loser is within a few per cent, and trying is cheap."""

_MOSTLY_TENSORS = 0.8
"""Larger targets of which tensor frames hold this share are not encoded as plain bytes: those are never smaller."""


def smallest_update(base: Source, target: Source, pool: Executor) -> Encoded:
    """Encode `target` for a device that holds `base`."""
    tensors = encode_tensors(base, target, pool)
    if tensors is not None and clearly_best(tensors, target):
        return tensors
    plain = alternatives.improved(encode_update(base, target, pool), base, target, pool)
    return plain if tensors is None else min(tensors, plain, key=lambda encoded: encoded.cost)


def clearly_best(tensors: Encoded, target: Source) -> bool:
    """Whether encoding as plain bytes can be left out: the target is large and consists of tensors or copies."""
    if target.manifest.size <= _ALWAYS_BOTH_BYTES:
        return False
    plain = sum(
        op.length for op in tensors.operations if isinstance(op, Frame) and op.encoding not in codecs.WITH_TABLES
    )
    return plain <= (1 - _MOSTLY_TENSORS) * target.manifest.size
