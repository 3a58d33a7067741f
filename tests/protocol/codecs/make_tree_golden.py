"""Makes the golden vectors of encoding 7. What is there stays as it is: new kinds come in a folder of their own.

python -m tests.protocol.codecs.make_tree_golden (writes into tests/protocol/golden/, what is not there yet)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from modelsync_protocol.tree_files.tree_columns import TreeColumns
from tests.support import boosted_files, tree_files

GOLDEN = Path(__file__).parents[1] / "golden"
FOREST = {
    "pickle": (tree_files.pickled(21, 3), tree_files.pickled(22, 3)),
    "regression": (tree_files.pickled(23, 2, 1), tree_files.pickled(24, 2, 1)),
    "onnx": (tree_files.onnx_model(25), tree_files.onnx_model(26)),
    "json": (tree_files.booster(27), tree_files.booster(28)),
    "ubjson": (tree_files.booster(27, binary=True), tree_files.booster(28, binary=True)),
}
BOOSTED = {
    "lightgbm": (boosted_files.light(29), boosted_files.light(30)),
    "histogram": (boosted_files.histogram(31), boosted_files.histogram(32)),
    "tensors": (boosted_files.tensor_ensemble(33), boosted_files.tensor_ensemble(34)),
}


FOLDERS = {"trees": FOREST, "boosted": BOOSTED}


def main() -> None:
    """Write base and payload of each pair, and what they decode to as a digest."""
    for folder, pairs in FOLDERS.items():
        if not (GOLDEN / folder).exists():
            _write(GOLDEN / folder, pairs)


def _write(out: Path, pairs: Mapping[str, tuple[bytes, bytes]]) -> None:
    out.mkdir()
    vectors = []
    for name, (base, target) in pairs.items():
        payload = TreeColumns().encode_if(target, base, b"")
        assert payload is not None
        (out / f"{name}.base").write_bytes(base)
        (out / f"{name}.payload").write_bytes(payload)
        vectors.append({"name": name, "length": len(target), "sha256": hashlib.sha256(target).hexdigest()})
    (out / "vectors.json").write_text(json.dumps(vectors, indent=1) + "\n", encoding="utf-8")
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(out.iterdir()))
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


if __name__ == "__main__":
    main()
