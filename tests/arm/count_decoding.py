"""Decodes a release's update as often as asked, for `tests/arm/count`, which counts the instructions of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.arm import release

if __name__ == "__main__":
    folder, times = Path(sys.argv[1]), int(sys.argv[2])
    old, new = (version["manifest"] for version in json.loads((folder / "versions.json").read_text(encoding="utf-8")))
    for _ in range(times):
        release.update_to(folder, old, new)
