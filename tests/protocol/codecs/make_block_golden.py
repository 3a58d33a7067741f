"""Makes the golden vectors of encoding 9. Run once per kind: what is released never changes.

python -m tests.protocol.codecs.make_block_golden (writes into tests/protocol/golden/blocks/)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from modelsync_protocol import codecs
from modelsync_protocol.blocks.layouts import BY_NAME, LAYOUTS
from modelsync_protocol.blocks.runs import Run
from modelsync_protocol.codecs.segments import Gap
from modelsync_protocol.ops import Frame
from modelsync_server.blocks import coding
from modelsync_server.blocks.candidate import encode_blocks
from modelsync_server.blocks.frames import Contents, Layouted, Placed
from tests.server.tensors.worlds import source
from tests.support import block_pairs
from tests.support.block_pairs import KINDS

OUT = Path(__file__).parents[1] / "golden" / "blocks"
Vector = tuple[str, bytes, bytes, bytes, bytes]
"""Name, target, base, tables, payload."""


def fine_tuned(kind: str) -> Iterator[Vector]:
    """Whole files, with other tensors between and scales as the publisher carries them: on a base, and alone."""
    old, new = (source({"m.gguf": block_pairs.model(kind, step, 16, 256)}) for step in (0.0, 4e-4))
    with ThreadPoolExecutor(1) as pool:
        for name, base in (("tuned", old), ("alone", source({}))):
            encoded = encode_blocks(base, new, None, pool)
            position, payloads = 0, iter(encoded.payloads if encoded else ())
            for op in encoded.operations if encoded else ():
                payload = next(payloads) if isinstance(op, Frame) else b""
                if isinstance(op, Frame) and op.encoding == codecs.BLOCKS and encoded is not None:
                    lean = bytes(base.stream[op.base_offset : op.base_offset + op.base_length])
                    data = bytes(new.stream[position : position + op.length])
                    yield f"{name}-{kind}-{position}", data, lean, encoded.tables, bytes(payload)
                position += op.length


def hostile(kind: str) -> Iterator[Vector]:
    """Scales that no model should have, half a block before and behind the run, in a frame by itself."""
    layout = BY_NAME[kind]
    old, new = block_pairs.hostile(kind, layout.code)
    lead, tail = b"lead" * 2, b"tail!"
    for name, base in (("hostile", 5), ("hostile-alone", None)):
        data, lean = lead + new + tail, b"base!" + old if base is not None else b""
        run = Run(layout, len(lead), len(new) // layout.bytes, base, 0)
        placed = Placed(run, None, 0, base)  # type: ignore[arg-type]
        rest = len(data) - run.length + run.count * layout.plane_bytes
        frame = Layouted(0, len(data), (placed,), (Gap(rest),), 0, len(lean))
        yield f"{name}-{kind}", data, lean, *written(frame, data, lean)


def written(frame: Layouted, data: bytes, base: bytes) -> tuple[bytes, bytes]:
    """Tables and payload of one frame."""
    counts = coding.frame_counts(frame, Contents.of(frame, memoryview(data), memoryview(base)))
    known = coding.with_tables({key: cells.astype(np.int64) for key, cells in counts.items()}, ())
    return known.shared, coding.payload(frame, memoryview(data), memoryview(base), known)


def nibbles() -> Iterator[Vector]:
    """Quants without scales."""
    generator = np.random.default_rng(128)
    layout = LAYOUTS[128]
    old = generator.integers(0, 256, 700, dtype=np.uint8)
    new = (old + generator.choice([0, 0, 0, 1], 700).astype(np.uint8)).tobytes()
    for name, base in (("nibbles", 0), ("nibbles-alone", None)):
        run = Run(layout, 0, len(new), base, 0)
        lean = old.tobytes() if base is not None else b""
        placed = Placed(run, None, 0, base)  # type: ignore[arg-type]
        frame = Layouted(0, len(new), (placed,), (), 0, len(lean))
        yield name, new, lean, *written(frame, new, lean)


def main() -> None:
    """Write base, tables and payload of each frame, and what it decodes to as a digest."""
    OUT.mkdir(exist_ok=True)
    listed: list[dict[str, Any]] = []
    made = [vector for kind in KINDS for vector in (*fine_tuned(kind), *hostile(kind))]
    for name, target, base, tables, payload in (*made, *nibbles()):
        assert codecs.decode(codecs.BLOCKS, payload, len(target), base, b"", tables) == target, name
        for part, data in (("base", base), ("tables", tables), ("payload", payload)):
            if data:
                (OUT / f"{name}.{part}").write_bytes(data)
        digest = hashlib.sha256(target).hexdigest()
        listed.append({"name": name, "encoding": codecs.BLOCKS, "length": len(target), "sha256": digest})
    (OUT / "vectors.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(OUT.iterdir()))
    text = "".join(line for line in sums if "SHA256SUMS" not in line)
    (OUT / "SHA256SUMS").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
