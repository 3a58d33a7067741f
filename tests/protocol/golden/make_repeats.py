"""Made the golden vector of operations that end inside chunks: `python -m tests.protocol.golden.make_repeats DIR`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from modelsync_protocol import codecs, update
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.ops import Copy, Frame
from modelsync_protocol.plain.section import Views
from tests.protocol.golden.make import noise, regular


def main(folder: Path) -> None:
    """Write streams, manifests and the update: a stretch of the base moved, and one of the target repeated."""
    folder.mkdir(parents=True)
    moved, fresh = noise("repeats moved", 3001), noise("repeats fresh", 2003)
    old = b"head of the old" + moved
    new = b"new head, " + moved[7:] + fresh + b"between" + fresh[1:] + b"end"
    sizes = [(1500, len(data) - 1500) for data in (old, new)]
    manifests = [Manifest((regular("model.bin", data, size),)) for data, size in zip((old, new), sizes, strict=True)]
    zstd = codecs.ENCODINGS[codecs.ZSTD]
    payloads = [zstd.encode(data, b"", b"") for data in (b"new head, ", fresh + b"between", b"end")]
    repeated = 10 + len(moved) - 7 + 1
    operations = (
        Frame(10, codecs.ZSTD, len(payloads[0])),
        Copy(len(moved) - 7, 15 + 7),
        Frame(len(fresh) + 7, codecs.ZSTD, len(payloads[1])),
        Copy(len(fresh) - 1, repeated, own=True),
        Frame(3, codecs.ZSTD, len(payloads[2])),
    )
    views = Views.streams(len(old), len(new))
    files = {
        "base.stream": old,
        "base.manifest.json": manifests[0].encoded,
        "target.manifest.json": manifests[1].encoded,
        "target.update": update.encode_header(manifests[0], manifests[1], operations, b"", views) + b"".join(payloads),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    (folder / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
