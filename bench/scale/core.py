"""What a device's processor does for an update: `modelsyncd pull` of a fine-tune, with the compiled core and without.

`python -m bench.scale.core [quick|default|full]` prints the result as JSON. Megabytes are the target's, seconds the
processor's, of the whole command with its start, its checks and its writes; `zstd -d` decodes zstd's own patch.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.scale import cost, device, models
from modelsync_protocol.native import library

_SIZES = {"quick": 4, "default": 193, "full": 193}


def measure(*, scale: str = "default", scratch: Path | None = None) -> dict[str, Any]:
    """Values by the names that `targets.py` holds."""
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="modelsync-core-") as folder:
            return measure(scale=scale, scratch=Path(folder))
    pair = models.tensors(scratch, _SIZES[scale] * models.MB)
    patch, made = scratch / "patch.zst", scratch / "made"
    long = "--long=31"
    cost.run(["zstd", "-3", long, "-T2", "-q", "-f", "--patch-from", pair.old, pair.new, "-o", patch])
    theirs = cost.run(["zstd", "-d", "-q", "-f", long, "--patch-from", pair.old, patch, "-o", made])
    megabytes = pair.new.stat().st_size / models.MB
    values: dict[str, float] = {"zstd_mb_per_core_second": megabytes / theirs.cpu}
    with device.world(scratch) as here:
        here.publish("m", pair.old)
        for data in ("with", "without"):
            here.pull("m", data)
        here.publish("m", pair.new)
        values["pull_mb_per_core_second"] = megabytes / here.pull("m", "with").cpu
        os.environ[library.VARIABLE] = library.OFF
        values["numpy_mb_per_core_second"] = megabytes / here.pull("m", "without").cpu
        del os.environ[library.VARIABLE]
    found = library.load()
    return {"values": values, "curves": {}, "notes": [] if found.library else [f"no compiled core: {found.reason}"]}


if __name__ == "__main__":
    print(json.dumps(measure(scale=sys.argv[1] if len(sys.argv) > 1 else "default"), indent=1))
