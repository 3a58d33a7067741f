"""The scenarios that are made of model pairs: each pair, a first install, a device three versions behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelsync_bench.checkout import EXAMPLES, make_importable
from modelsync_bench.digests import digest, size
from modelsync_bench.peers.port import Job
from modelsync_bench.result import PairInfo

PAIRS, INSTALL, BEHIND = "pairs", "install", "behind"
_OWN = {
    "anomaly-pickle": "anomaly/{}/model.pkl",
    "anomaly-onnx": "anomaly/{}/model.onnx",
    "digits-int8": "digits/int8/{}/model.onnx",
    "digits-float32": "digits/float32/{}/model.onnx",
}


@dataclass(frozen=True, slots=True)
class Task:
    """A job of a scenario. `peers`: who does it; None: all that do any pair."""

    scenario: str
    pair: str
    job: Job
    about: str = ""
    peers: frozenset[str] | None = None

    def info(self) -> PairInfo:
        """The entry of the result's pair list."""
        new, files = size(self.job.new)
        old = self.job.old
        return PairInfo(
            self.scenario,
            self.pair,
            "tree" if self.job.new.is_dir() else "file",
            size(old)[0] if old else None,
            new,
            files,
            digest(old) if old else None,
            digest(self.job.new),
            self.about,
        )


def pairs(corpus: Path | None, scratch: Path) -> dict[str, tuple[Path, Path]]:
    """Name → (old, new): the repository's own models, or a corpus folder's, its derived pairs laid out in `scratch`.

    Raises FileNotFoundError for a folder that holds no pairs.
    """
    if corpus is None:
        return {name: (EXAMPLES / path.format("v1"), EXAMPLES / path.format("v2")) for name, path in _OWN.items()}
    folder = corpus
    if (corpus / "derive.py").is_file():
        folder = scratch / "corpus"
        if not (folder / ".complete").exists():
            subprocess.run(
                [sys.executable, str(corpus / "derive.py"), str(folder)], check=True, stdout=subprocess.DEVNULL
            )
            (folder / ".complete").touch()
    found = {
        path.name: (next(path.glob("old.*")), next(path.glob("new.*")))
        for path in sorted(folder.iterdir())
        if path.is_dir() and any(path.glob("old.*")) and any(path.glob("new.*"))
    }
    if not found:
        raise FileNotFoundError(f"{corpus} has no folders with old.* and new.*: give a folder of pairs as --corpus.")
    return found


def of_pairs(found: dict[str, tuple[Path, Path]]) -> Iterator[Task]:
    """An update from old to new."""
    for name, (old, new) in found.items():
        yield Task(PAIRS, name, Job(name, (old, new), 0))


def installs(found: dict[str, tuple[Path, Path]]) -> Iterator[Task]:
    """A device that holds nothing gets the new version."""
    for name, (_, new) in found.items():
        yield Task(INSTALL, name, Job(f"install-{name}", (new,), None))


def behind(scratch: Path) -> Iterator[Task]:
    """A device that holds version 1 gets version 4: the digits CNN, trained once and fine-tuned three times over."""
    folder = scratch / "behind"
    if not (folder / ".complete").exists():
        _train(folder)
        (folder / ".complete").touch()
    about = "the digits CNN of examples/digits, fine-tuned three times over; all versions between are published"
    for form in ("int8", "float32"):
        versions = tuple(folder / form / f"v{n}" / "model.onnx" for n in range(1, 5))
        yield Task(BEHIND, f"digits-{form}", Job(f"behind-{form}", versions, 0), about)


def _train(folder: Path) -> None:
    make_importable()
    from examples.digits import export, train

    training, _ = train.data()
    weights = train.train(training)
    for number in range(1, 5):
        for form, int8 in (("float32", False), ("int8", True)):
            target = folder / form / f"v{number}" / "model.onnx"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(export.to_onnx(weights, int8=int8))
        weights = train.fine_tune(weights, training)
