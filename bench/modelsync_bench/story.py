"""The Azure ML story: a 6 KB scikit-learn model in an image whose dependencies weigh 60 MB, retrained.

Three ways: the image built anew, so that the dependencies' layer has another digest though its files are the same; the
known cure, which copies the new model into the old image (only a small layer is new); and modelsync, told by its twin.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from modelsync_bench.checkout import EXAMPLES
from modelsync_bench.images import Compression, Layer, layer
from modelsync_bench.peers.modelsync import ModelsyncNginx
from modelsync_bench.peers.oci import FIRST_BUILD, Oci
from modelsync_bench.peers.port import Job, Peer
from modelsync_bench.peers.twin import Push, Twin
from modelsync_bench.scenarios import Task

STORY = "story"
_BESIDE = frozenset({"modelsync", "https-get", "zstd-patch", "hdiffpatch"})
"""General ways to show beside the story's own; the others are measured with the same pair in `pairs`."""

_PACKAGES = ("numpy", "numpy.libs", "scipy", "scipy.libs", "sklearn", "scikit_learn.libs", "joblib")
ABOUT = (
    "examples/anomaly's scikit-learn pickle; below it in the image a layer with the files of the installed numpy, "
    "scipy, scikit-learn and joblib"
)


def tasks() -> Iterator[Task]:
    """The one job: the device holds version 1 and gets version 2."""
    old, new = (EXAMPLES / "anomaly" / v / "model.pkl" for v in ("v1", "v2"))
    names = _BESIDE | peers().keys()
    yield Task(STORY, "anomaly-pickle", Job("story", (old, new), 0), ABOUT, frozenset(names))


def peers() -> dict[str, Peer]:
    """Those that only this scenario has."""
    kinds: tuple[Compression, ...] = ("gzip", "zstd")
    images: list[Peer] = [StoryImage(kind, rebuilt=rebuilt) for rebuilt in (True, False) for kind in kinds]
    return {peer.name: peer for peer in (*images, ModelsyncNginx(), Twin(), Push())}


class StoryImage(Oci):
    """An image with the dependencies below the model. `rebuilt`: the dependencies' layer is built anew each time."""

    def __init__(self, compression: Compression, *, rebuilt: bool) -> None:
        super().__init__(compression)
        kind = "naive" if rebuilt else "trick"
        self.name = f"oci-{compression}-{kind}"
        self._rebuilt = rebuilt
        self.method = (
            f"skopeo pulls the new image ({compression} layers) from docker-registry; the device has the old one; "
            + ("the dependencies' layer was built anew" if rebuilt else "the new model was copied into the old image")
        )

    def layers(self, job: Job, number: int, blobs: Path) -> list[Layer]:
        built = FIRST_BUILD + (number * 86400 if self._rebuilt else 0)
        tree = blobs.parent / "dependencies"
        if not tree.exists():
            dependencies(tree)
        base = layer(tree, "usr/lib/python3/dist-packages", self.compression, blobs, built=built)
        models = range(number, number + 1) if self._rebuilt else range(number + 1)
        # The trick's image is the old one and a layer more: it grows by a layer with each version.
        return [base] + [
            layer(job.versions[n], "app", self.compression, blobs, built=FIRST_BUILD + n * 86400) for n in models
        ]


def dependencies(target: Path) -> None:
    """Copy what the story's image has below the model: the installed packages' files, without bytecode."""
    site = Path(str(importlib.import_module("numpy").__file__)).parents[1]
    for name in _PACKAGES:
        if (site / name).is_dir():
            shutil.copytree(site / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
