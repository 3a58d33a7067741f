"""Encodes matrices that a change of low rank moved, as a merged adapter does (encoding 6). No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from modelsync_protocol.codecs import adapted
from modelsync_server.encode.changed import Stretch, overlapping, stretches
from modelsync_server.encode.encoder import Encoded, Source
from modelsync_server.encode.tensor_encoder import encode_tensors
from modelsync_server.low_rank import finder
from modelsync_server.low_rank.adapters import Adapter
from modelsync_server.low_rank.finder import Change
from modelsync_server.tensors import pairs as pairing
from modelsync_server.tensors.effort import Effort
from modelsync_server.tensors.pieces import elements


def encode_low_rank(
    base: Source,
    target: Source,
    oldest: Encoded,
    pool: Executor,
    adapter: Adapter | None = None,
    effort: Effort = Effort.MAX,
) -> Encoded | None:
    """Encode `target` for a device that holds `base`; None if no matrix changed by something of low rank.

    `adapter`: whose factors were merged; matrices that it does not name are looked at as without it.
    """
    changes = changes_of(base, target, pool, adapter, stretches(oldest))
    return encode_tensors(base, target, pool, changes=changes, effort=effort) if changes else None


def changes_of(
    base: Source,
    target: Source,
    pool: Executor,
    adapter: Adapter | None = None,
    changed: Sequence[Stretch] | None = None,
) -> dict[int, Change]:
    """Offset of a tensor in the target's stream → the change of low rank that moved it from its counterpart.

    `changed`: where else than there nothing is looked for; None: everywhere.
    """
    if changed is None:
        changed = [Stretch(0, target.manifest.size, 0)]
    within = [(stretch.begin, stretch.end) for stretch in changed]
    sources = (base.manifest, base.stream), (target.manifest, target.stream)
    new, pairs = pairing.continued(*sources, within, guess=(True, False))
    looked_at = [
        tensor
        for tensor in new
        if tensor.offset in pairs
        and tensor.numeral in adapted.ADAPTABLE
        and len(tensor.shape) >= 2
        and overlapping(changed, tensor.offset, tensor.offset + tensor.length)
    ]
    # The pool's threads fill the cores already: more of BLAS' own wait in loops that take twenty times the work, and
    # sums in another order would make the result depend on the machine.
    with threadpool_limits(1, "blas"):
        results = list(pool.map(lambda tensor: _change(tensor, pairs[tensor.offset], base, target, adapter), looked_at))
    return {tensor.offset: change for tensor, change in zip(looked_at, results, strict=True) if change is not None}


def _change(
    tensor: pairing.Tensor, match: pairing.Tensor, base: Source, target: Source, adapter: Adapter | None
) -> Change | None:
    if match.count != tensor.count or match.numeral != tensor.numeral:
        return None
    old, new = (elements(s.stream, t.offset, t.count, t.numeral) for s, t in ((base, match), (target, tensor)))
    try:
        if adapter is None and not finder.promising(tensor.numeral, old, new, tensor.shape[0]):
            return None
        return _found(finder.pair_of(tensor.numeral, old, new, tensor.shape[0]), tensor.name, adapter)
    except np.linalg.LinAlgError:  # a decomposition that does not converge
        return None


def _found(pair: finder.Pair | None, name: str, adapter: Adapter | None) -> Change | None:
    if pair is None:
        return None
    factors = adapter.factors(name, pair.difference) if adapter is not None else None
    known = None if factors is None else finder.known(pair, *factors)
    return known or finder.found(pair)
