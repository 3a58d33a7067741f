"""Made the golden vector of encodings 10 and 11: `python -m tests.protocol.golden.make_records DIR`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

from modelsync_protocol import codecs, update
from modelsync_protocol.codecs.records import FROM_BASE, FROM_BEFORE, FROM_ROOT, VALUE, Field, Run, write
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy, Frame
from modelsync_protocol.plain.section import Views
from tests.protocol.golden.make import noise, regular

LAYOUT = ((1, VALUE), (2, FROM_BASE), (4, FROM_BASE), (8, FROM_BASE), (4, FROM_BEFORE), (8, FROM_BEFORE))


def main(folder: Path) -> None:
    """Write streams, manifests and the update: two runs, each width and relation, numbers that overflow, stored."""
    folder.mkdir(parents=True)
    fields = np.dtype([("a", "<u1"), ("b", "<u2"), ("c", "<u4"), ("d", "<u8"), ("e", "<u4"), ("f", "<u8")])
    rows = np.frombuffer(noise("records rows", 90 * fields.itemsize), fields).copy()
    rows["e"] = np.cumsum(rows["a"] % 9, dtype="<u4") + np.uint32(4_294_967_000)
    rows["f"] = np.arange(90)[::-1]
    after = rows.copy()
    after["b"] += np.uint16(65_500)
    after["c"] += rows["a"] % np.uint8(3)
    after["d"] += np.uint64(1 << 63)
    old = b"first" + rows.tobytes() + b"between" + rows["c"].tobytes() + b"tail"
    head, tail = noise("records head", 77), noise("records tail", 9)
    middle = b"FIRST!" + after.tobytes() + b"between, more" + after["c"].tobytes()
    first = Run(6, 90, 5, tuple(Field(width, relative) for width, relative in LAYOUT))
    second = Run(first.end + 13, 90, 5 + rows.nbytes + 7, (Field(2, FROM_BASE), Field(2, VALUE)))
    payload = write([first, second], middle, old, head)
    squares = np.abs(np.frombuffer(noise("records squares", 800), "<i8") % 10**15).astype("<f8") / 10**9
    squares[:4] = [0, -1, np.nan, 5e-324]
    with np.errstate(invalid="ignore"):
        deviations = np.sqrt(squares)
    deviations[0] = 1
    narrow = np.sqrt(squares[4:].astype("<f4"))
    stored = tail + squares.tobytes() + squares[4:].astype("<f4").tobytes()
    wide_run = Run(0, 100, 800 + 384, (Field(8, FROM_ROOT),))
    wide = write([wide_run], deviations.tobytes(), b"", stored)
    behind = stored + deviations.tobytes()
    narrow_run = Run(2, 96, 384 + 800, (Field(4, FROM_ROOT),))
    last = write([narrow_run], b"up" + narrow.tobytes(), b"", behind)
    new = head + middle + b"tail" + behind + b"up" + narrow.tobytes()
    operations = (
        Frame(len(head), codecs.STORED, len(head)),
        Frame(len(middle), codecs.RECORDS, len(payload), 0, len(old), len(head)),
        Copy(4, len(old) - 4),
        Frame(len(stored), codecs.STORED, len(stored)),
        Frame(800, codecs.RECORDS, len(wide), prefix=len(stored)),
        Frame(2 + 384, codecs.RECORDS, len(last), prefix=len(behind)),
    )
    base, target = (Manifest((regular("model.bin", data, (1500, len(data) - 1500)),)) for data in (old, new))
    header = update.encode_header(base, target, operations, b"", Views.streams(len(old), len(new)))
    files = {
        "base.stream": old,
        "base.manifest.json": base.encoded,
        "target.manifest.json": target.encoded,
        "target.update": header + head + payload + stored + wide + last,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    (folder / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
