"""Trains the digits CNN: v1, v2 fine-tuned from it, v3 broken on purpose; writes both forms and probes.

v3 is v2 with the last layer's rows in another order: well-formed, it loads and answers, but wrongly. Its probe
is v2's, so that whoever probes it must refuse it.
Run from the repository's root: python -m examples.digits.train [--out DIR]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from examples import probes
from examples.digits import export, network
from examples.digits.network import Array, Weights

HERE = Path(__file__).parent
FORMS = ("float32", "int8")
SEED = 8
BATCH = 32
V1_IMAGES = 1100
"""v1 learns from so many images; v2 sees the other training images as well."""


@dataclass(frozen=True, slots=True)
class Digits:
    """`images`: (n, 1, 8, 8) float32 from 0 to 1; `labels`: (n,) int64."""

    images: Array
    labels: npt.NDArray[np.int64]

    def part(self, start: int, stop: int) -> Digits:
        """The images from `start` to `stop`; a view."""
        return Digits(self.images[start:stop], self.labels[start:stop])


def data() -> tuple[Digits, Digits]:
    """scikit-learn's bundled 8x8 digits, shuffled: 1,437 to train on, 360 to measure on."""
    bunch = load_digits()
    order = np.random.default_rng(SEED).permutation(len(bunch.target))
    images = (bunch.images[order, None] / 16).astype(np.float32)
    digits = Digits(images, bunch.target[order].astype(np.int64))
    return digits.part(0, 1437), digits.part(1437, 1797)


def train(training: Digits, epochs: int = 6) -> Weights:
    """v1's weights."""
    rng = np.random.default_rng(SEED)
    weights = network.initial(rng)
    optimiser = network.AdamW(weights, rate=1e-3, decay=1e-2)
    for _ in range(epochs):
        for batch in _batches(training.part(0, V1_IMAGES), rng):
            optimiser.step(batch.images, batch.labels)
    return weights


def fine_tune(weights: Weights, training: Digits) -> Weights:
    """v2's weights: one gentle pass over all training images, beginning at a copy of `weights`."""
    tuned = {name: weight.copy() for name, weight in weights.items()}
    optimiser = network.AdamW(tuned, rate=1e-5, decay=1e-2)
    for batch in _batches(training, np.random.default_rng(SEED + 1)):
        optimiser.step(batch.images, batch.labels)
    return tuned


def break_last_layer(weights: Weights) -> Weights:
    """v3's weights: digit d's row answers for digit d + 1."""
    moved = {name: np.roll(weights[name], 1, axis=0) for name in ("dense2.weight", "dense2.bias")}
    return weights | moved


def accuracy(weights: Weights, digits: Digits) -> float:
    """The share of `digits` that the float32 network names rightly."""
    return float(np.mean(network.logits(weights, digits.images).argmax(axis=1) == digits.labels))


def write(versions: dict[int, Weights], test: Digits, out: Path) -> None:
    """Write <form>/v<version>/model.onnx and probe.json into `out` for each of `versions`."""
    cases = [{"image": test.images[i : i + 1]} for i in range(4)]
    for form in FORMS:
        for version, weights in versions.items():
            folder = out / form / f"v{version}"
            folder.mkdir(parents=True, exist_ok=True)
            model = folder / "model.onnx"
            model.write_bytes(export.to_onnx(weights, int8=form == "int8"))
            right = out / form / "v2" / "model.onnx" if version == 3 else model
            (folder / "probe.json").write_bytes(probes.record(right, cases, "0.001"))


def main() -> None:
    """Train and write all versions."""
    parser = argparse.ArgumentParser(description="Train the digits CNN.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for float32/ and int8/ (default: here)")
    out: Path = parser.parse_args().out
    training, test = data()
    first = train(training)
    second = fine_tune(first, training)
    versions = {1: first, 2: second, 3: break_last_layer(second)}
    write(versions, test, out)
    for version, weights in versions.items():
        sizes = {form: (out / form / f"v{version}" / "model.onnx").stat().st_size for form in FORMS}
        print(f"digits v{version}: accuracy {accuracy(weights, test):.3f}; bytes {sizes}")


def _batches(digits: Digits, rng: np.random.Generator) -> Iterator[Digits]:
    order = rng.permutation(len(digits.labels))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        yield Digits(digits.images[chosen], digits.labels[chosen])


if __name__ == "__main__":
    main()
