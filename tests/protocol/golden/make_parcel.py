"""Made the golden vector of the parcel, of released vectors; `python -m tests.protocol.golden.make_parcel FOLDER`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from modelsync_protocol import names, parcel
from tests.protocol.golden import check

TARGETS = (
    b'{"signatures":[{"keyid":"' + b"ab" * 32 + b'"}],"signed":{"_type":"targets","role":"targets","version":300}}'
)
"""The only object of a parcel that no vector has yet; a document of a kind that python-tuf writes."""


def objects() -> dict[str, bytes]:
    """One object of each kind, by store path."""
    base, target = (hashlib.sha256(check.read(f"{name}.manifest.json")).hexdigest() for name in ("base", "target"))
    pack = check.read("target.pack")
    return {
        names.update_object(target, base): check.read("target.update"),
        names.manifest_object(target): check.read("target.manifest-object"),
        names.pack_object(hashlib.sha256(pack).hexdigest()): pack,
        "metadata/300.targets.json": TARGETS,
    }


def main(folder: Path) -> None:
    """Write the vector and its digest."""
    data = parcel.encode(check.read("bundle"), objects())
    folder.mkdir(parents=True)
    (folder / "parcel").write_bytes(data)
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(data).hexdigest()}  parcel\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
