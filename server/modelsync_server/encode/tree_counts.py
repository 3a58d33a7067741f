"""Counts an ensemble's trees, and those that two versions share. No I/O here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from modelsync_protocol.tree_files import binned_scan, boosted_arrays, scan, text_arrays

_CONTINUED = {"scikit-learn": "warm_start", "XGBoost": "xgb_model", "LightGBM": "init_model"}


@dataclass(frozen=True, slots=True)
class TreeCounts:
    """Trees of a version, how many of them the other one has too, and what a library calls growing them further."""

    trees: int
    shared: int
    continued: str


def tree_counts(base: bytes, target: bytes) -> TreeCounts | None:
    """What `target` has of the trees of `base`; None where it holds no trees that can be told apart."""
    found = _images(target)
    if found is None:
        return None
    library, images = found
    old = _images(base)
    held = set(old[1]) if old is not None else set()
    return TreeCounts(len(images), sum(image in held for image in images), _CONTINUED[library])


def _images(data: bytes) -> tuple[str, list[bytes]] | None:
    """(library, digest of each tree)."""
    records = list(scan.trees(data))
    if records:
        return "scikit-learn", [_digest(data, [(tree.records, tree.records_end)]) for tree in records]
    for library, found in (("XGBoost", boosted_arrays.trees(data)), ("LightGBM", text_arrays.trees(data))):
        if found is not None:
            whole = [[(array.begin, array.end) for array in tree if array.name] for tree in found.arrays]
            return library, [_digest(data, spans) for spans in whole]
    binned = binned_scan.find(data)
    if binned is not None:
        return "scikit-learn", [_digest(data, [(tree.begin, tree.end)]) for tree in binned.trees]
    return None


def _digest(data: bytes, spans: list[tuple[int, int]]) -> bytes:
    return hashlib.sha256(b"\n".join(data[begin:end] for begin, end in spans)).digest()
