"""How long publishing takes: an update beside zstd's patch in one run, and its growth with size, bases and files.

`python -m bench.scale.speed [quick|default|full]` prints the result as JSON. Times are of whole commands, one after the
other on the same machine, so only their ratios mean anything; processor time is of the command with its children. The
cache is empty for first publications and kept between the versions of one model, as on any publisher's machine.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.scale import cost, models

_MODELSYNC = Path(sys.executable).with_name("modelsync")
_SIZES = {"quick": 4, "default": 193, "full": 193}
"""MB of the pair that is held against zstd."""

_CURVES = {"quick": (2, 4), "default": (25, 50, 100), "full": (50, 200, 800)}
_BASES_SIZE = {"quick": 8, "default": 25, "full": 50}
_BASES = {"quick": (1, 2), "default": (1, 3, 5), "full": (1, 3, 5)}
_TREES = {"quick": (50, 100), "default": (1250, 2500, 5000), "full": (1250, 2500, 5000)}
_TREE_BYTES = 1400
"""Of a file of a tree in the mean: 5,000 are 7 MB."""

_MANY = {"quick": 300, "default": 3000, "full": 30_000}
_MANY_BYTES = 33_000
"""Of a file of the tree that is held against tar and sha256sum, in the mean: 30,000 are 1 GB."""


class _Publisher:
    """A store, its keys and a cache in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._store, self._keys = folder / "store", folder / "keys"
        self._env = {"XDG_CACHE_HOME": str(folder / "cache")}
        cost.run([_MODELSYNC, "init", self._store, "--keys", self._keys], env=self._env)

    def publish(self, path: Path, *, effort: str = "default") -> cost.Cost:
        """Publish a file or folder as the next version of the one model, with updates from the last five."""
        command: list[str | Path] = [_MODELSYNC, "publish", self._store, "m", path, "--keys", self._keys]
        command += ["--effort", effort]
        return cost.run(command, env=self._env)


def measure(*, scale: str = "default", scratch: Path | None = None) -> dict[str, Any]:
    """Values and curves by the names that `targets.py` holds; sizes in MB, times in seconds."""
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="modelsync-speed-") as folder:
            return measure(scale=scale, scratch=Path(folder))
    values: dict[str, float] = {}
    values |= _against_zstd(scratch / "pair", _SIZES[scale])
    curves = {
        "size": [[size, _update(scratch / f"size-{size}", size).cpu] for size in _CURVES[scale]],
        "bases": [[count, _bases(scratch / f"bases-{count}", _BASES_SIZE[scale], count)] for count in _BASES[scale]],
        "files": [],
    }
    for files in _TREES[scale]:
        spent = _tree(scratch / f"tree-{files}", files)
        curves["files"].append([files, spent.cpu])
        if files == 5000:
            values |= {"tree_5000_seconds": spent.seconds, "tree_5000_mib": spent.peak_mib}
    values |= _against_tar(scratch / "many", _MANY[scale])
    notes = ["Curves are of processor seconds, which other work on the machine moves least."]
    notes.append(
        f"The tree's first publication took {values['tree_first_tar_ratio']:.0f} times tar's and sha256sum's time."
    )
    if _MANY[scale] < 30_000:
        notes.append(f"The tree beside tar and sha256sum is of {_MANY[scale]:,} files here; of 30,000 with --full.")
    return {"values": values, "curves": curves, "notes": notes}


def _against_zstd(folder: Path, size: int) -> dict[str, float]:
    pair = models.tensors(folder, size * models.MB)
    publisher, patch = _Publisher(folder), folder / "patch.zst"
    first = publisher.publish(pair.old)
    update = publisher.publish(pair.new)
    window = "--long=31"
    theirs = cost.run(["zstd", "-19", window, "-T2", "-q", "-f", "--patch-from", pair.old, pair.new, "-o", patch])
    megabytes = pair.new.stat().st_size / models.MB
    result = {
        "update_time_ratio": update.seconds / theirs.seconds,
        "update_cpu_ratio": update.cpu / theirs.cpu,
        "install_mb_a_core": megabytes / first.cpu,
        "update_mb_a_core": megabytes / update.cpu,
        "install_utilisation": first.utilisation / (os.cpu_count() or 1),
        "update_utilisation": update.utilisation / (os.cpu_count() or 1),
    }
    shutil.rmtree(folder)
    return result


def _update(folder: Path, size: int) -> cost.Cost:
    """What the second version of a model of `size` MB costs, pack and update together."""
    pair = models.tensors(folder, size * models.MB)
    publisher = _Publisher(folder)
    publisher.publish(pair.old)
    spent = publisher.publish(pair.new)
    shutil.rmtree(folder)
    return spent


def _bases(folder: Path, size: int, count: int) -> float:
    """Processor seconds of a fine-tune with updates from `count` others: its start, and ones of fewer tensors."""
    publisher = _Publisher(folder)
    last = models.tensors(folder / "last", size * models.MB)
    publisher.publish(last.old, effort="fast")
    for number in range(1, count):
        between = models.tensors(folder / str(number), size * models.MB, touch=number / count)
        publisher.publish(between.new, effort="fast")
    spent = publisher.publish(last.new)
    shutil.rmtree(folder)
    return spent.cpu


def _tree(folder: Path, files: int) -> cost.Cost:
    """What the second version of a tree costs in which nine files changed."""
    pair = models.tree(folder, files, files * _TREE_BYTES)
    publisher = _Publisher(folder)
    publisher.publish(pair.old)
    spent = publisher.publish(pair.new)
    shutil.rmtree(folder)
    return spent


def _against_tar(folder: Path, files: int) -> dict[str, float]:
    """A tree's update by nine files, and its first publication, by the time of `tar` and `sha256sum` of all of it."""
    pair, packed = models.tree(folder, files, files * _MANY_BYTES), folder / "packed.tar"
    publisher = _Publisher(folder)
    first, update = publisher.publish(pair.old), publisher.publish(pair.new)
    theirs = cost.run(["tar", "-C", pair.new, "-cf", packed, "."]).seconds + cost.run(["sha256sum", packed]).seconds
    shutil.rmtree(folder)
    return {
        "tree_update_tar_ratio": update.seconds / theirs,
        "tree_first_tar_ratio": first.seconds / theirs,
        "tree_update_mib": update.peak_mib,
    }


if __name__ == "__main__":
    print(json.dumps(measure(scale=sys.argv[1] if len(sys.argv) > 1 else "default"), indent=1))
