"""Peak memory of publishing a model and its update, by size, and whether 10 GB come to a device.

`python -m bench.scale.memory [quick|default|full]` prints the result as JSON. Sizes are in MB; weights are float16 up
to 2 GB, and beyond that holes with 1 % of the tensors changed. A device's memory is the peak of `modelsyncd pull` above
that of the same command for a model of 1 MB; the resident daemon's bound is held by tests/daemon/test_memory.py.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.scale import device, models

_SIZES = {"quick": (4, 8), "default": (48, 193, 772), "full": (193, 2000, 10_000)}
_SPARSE_FROM = 4000


def measure(*, scale: str = "default", scratch: Path | None = None) -> dict[str, Any]:
    """Curves and values by the names that `targets.py` holds."""
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="modelsync-memory-") as made:
            return measure(scale=scale, scratch=Path(made))
    curve: list[list[float]] = []
    values: dict[str, float] = {}
    for size in _SIZES[scale]:
        folder = scratch / str(size)
        models.need_disk(folder, 8 * size * models.MB)
        length = size * models.MB
        pair = models.sparse(folder, length) if size >= _SPARSE_FROM else models.tensors(folder, length)
        with device.world(folder) as here:
            first = here.publish("m", pair.old)
            if size >= _SPARSE_FROM:
                here.publish("small", models.tensors(folder / "small", models.MB).old)
                little = here.pull("small", "other").peak_mib
                install = here.pull("m").peak_mib
            update = here.publish("m", pair.new)
            curve.append([size, max(first.peak_mib, update.peak_mib)])
            if size >= _SPARSE_FROM:
                values["ten_gb_device_mib_over_idle"] = max(install, here.pull("m").peak_mib) - little
                values["ten_gb_works"] = True
        shutil.rmtree(folder)
    notes = [] if scale == "full" else ["10 GB are measured with --full."]
    return {"values": values, "curves": {"publish_mib": curve}, "notes": notes}


if __name__ == "__main__":
    print(json.dumps(measure(scale=sys.argv[1] if len(sys.argv) > 1 else "default"), indent=1))
