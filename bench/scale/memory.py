"""Peak memory of publishing a model and its update, by size, and whether 10 GB come to a device.

`python -m bench.scale.memory [quick|default|full] [--size MB …] [--into RESULT]` prints the result as JSON. Sizes are
in MB; weights are float16 up to 2 GB, and beyond that holes with 1 % of the tensors changed. A device's memory is the
peak of `modelsyncd pull` above that of the same command for a model of 1 MB; the resident daemon's bound is held by
tests/daemon/test_memory_large.py. With `--into` a result of `bench.scale` (docs/performance/scale.json) gets these
sizes' points and values; those of other sizes stay.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.scale import device, models

_SIZES = {"quick": (4, 8), "default": (48, 193, 772), "full": (193, 2000, 10_000)}
_SPARSE_FROM = 4000
_COPIES, _SPARSE_COPIES = 8, 2.3
"""What all takes of the disk, in sizes of the model. Of a sparse one: the publisher's base and one version on the
device, or two versions there."""


def measure(
    *, scale: str = "default", scratch: Path | None = None, sizes: Sequence[int] | None = None
) -> dict[str, Any]:
    """Curves and values by the names that `targets.py` holds. `sizes`: in place of the scale's, in MB."""
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="modelsync-memory-") as made:
            return measure(scale=scale, scratch=Path(made), sizes=sizes)
    curve: list[list[float]] = []
    values: dict[str, float] = {}
    wanted = _SIZES[scale] if sizes is None else sizes
    for size in wanted:
        folder = scratch / str(size)
        sparse, length = size >= _SPARSE_FROM, size * models.MB
        models.need_disk(folder, int((_SPARSE_COPIES if sparse else _COPIES) * length))
        pair = models.sparse(folder, length) if sparse else models.tensors(folder, length)
        with device.world(folder) as here:
            first = here.publish("m", pair.old)
            if sparse:
                here.publish("small", models.tensors(folder / "small", models.MB).old)
                little = here.pull("small", "other").peak_mib
                install = here.pull("m").peak_mib
            update = here.publish("m", pair.new)
            curve.append([size, max(first.peak_mib, update.peak_mib)])
            if sparse:
                values["ten_gb_device_mib_over_idle"] = max(install, here.pull("m").peak_mib) - little
                values["ten_gb_works"] = True
        shutil.rmtree(folder)
    notes = [] if "ten_gb_works" in values else ["10 GB are measured with --full."]
    return {"values": values, "curves": {"publish_mib": curve}, "notes": notes}


def merged(result: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """`known`, an earlier result of this measure, with what was measured now in place of the same sizes' figures."""
    points = {size: peak for each in (known, result) for size, peak in each.get("curves", {}).get("publish_mib", [])}
    values = {**known.get("values", {}), **result["values"]}
    notes = [note for note in known.get("notes", []) if "--full" not in note or "ten_gb_works" not in values]
    curve = [[size, points[size]] for size in sorted(points)]
    kept = {key: value for key, value in known.items() if key != "error"}
    return {**kept, "values": values, "curves": {"publish_mib": curve}, "notes": notes}


def main() -> None:
    """Measure, print, and put it into a result."""
    parser = argparse.ArgumentParser(prog="bench.scale.memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scale", nargs="?", choices=_SIZES, default="default")
    parser.add_argument("--size", type=int, action="append", metavar="MB", help="only this one; may be repeated")
    parser.add_argument("--into", type=Path, metavar="RESULT", help="a result of bench.scale that gets the figures")
    options = parser.parse_args()
    result = measure(scale=options.scale, sizes=options.size)
    print(json.dumps(result, indent=1))
    if options.into is not None:
        document = json.loads(options.into.read_text(encoding="utf-8")) if options.into.exists() else {"measures": {}}
        document["measures"]["memory"] = merged(result, document["measures"].get("memory", {}))
        options.into.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
