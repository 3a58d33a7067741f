"""Reads adapters (LoRA) as PEFT, diffusers and kohya write them, and finds which matrix each pair of factors changed.

PEFT: https://huggingface.co/docs/peft/developer_guides/checkpoint. A module's change is scale · B · A, with the scale
alpha / rank. The file is only read for what a publication may save: whatever it says is checked against the pair.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import numerals
from modelsync_protocol.containers import safetensors
from modelsync_protocol.containers.ranges import TensorRange
from modelsync_protocol.errors import FormatError, UsageError
from modelsync_server.low_rank import large

_DOWN = re.compile(
    r"(?:\.lora_A|\.lora_down|\.lora\.down|_lora\.down|\.lora_embedding_A)(?:\.[A-Za-z0-9_-]+)?(?:\.weight)?$"
)
_UP = re.compile(r"(?:\.lora_B|\.lora_up|\.lora\.up|_lora\.up|\.lora_embedding_B)(?:\.[A-Za-z0-9_-]+)?(?:\.weight)?$")
_DORA = re.compile(r"lora_magnitude_vector|dora_scale")
_PREFIXES = ("base_model.model.", "base_model.", "model.")
_FITS, _FITS_UNNAMED = 0.9, 0.5
"""Which share of the change's power may be left when the product is taken off: where the name fits, where none does."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Factors:
    """One module's pair: up (rows × rank) and down (rank × columns), as they stand in the file."""

    module: str
    up: Matrix
    down: Matrix

    @property
    def turned(self) -> Factors:
        """The same change of the transposed matrix."""
        return Factors(self.module, self.down.T, self.up.T)


@dataclass(frozen=True, slots=True)
class Adapter:
    """The pairs of an adapter file."""

    path: Path
    pairs: tuple[Factors, ...]

    def factors(self, name: str, difference: Matrix) -> tuple[Matrix, Matrix, float] | None:
        """Up, down and scale of the pair that made `difference` of the tensor `name`; None if none did."""
        stem = _stem(name)
        named = [pair for pair in self.pairs if _continues(stem, _stem(pair.module))]
        for pairs, left in ((named, _FITS), (self.pairs if not named else (), _FITS_UNNAMED)):
            fitting = [_fitted(each, difference) for pair in pairs for each in (pair, pair.turned)]
            best = min((fit for fit in fitting if fit is not None), key=lambda fit: fit[0], default=None)
            if best is not None and best[0] < left:
                return best[1].up, best[1].down, best[2]
        return None


def read_adapter(path: Path) -> Adapter:
    """Read a safetensors adapter, or the one in a folder; UsageError says what is wrong with another."""
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    try:
        data = memoryview(file.read_bytes())
        ranges = {tensor.name: tensor for tensor in safetensors.tensors(data)}
    except FileNotFoundError:
        raise UsageError(f"{file} does not exist; give an adapter's safetensors file or its folder.") from None
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.") from error
    except FormatError as error:
        raise UsageError(f"{file} is no safetensors adapter: {error}") from error
    if any(map(_DORA.search, ranges)) or _configured(file).get("use_dora"):
        raise UsageError(
            f"{file} is a DoRA adapter: merging it scales whole columns, which is no change of low rank; "
            "publish without --adapter."
        )
    downs = {_module(_DOWN, name): name for name in ranges if _DOWN.search(name)}
    ups = {_module(_UP, name): name for name in ranges if _UP.search(name)}
    if not downs or set(downs) != set(ups):
        alone = sorted(set(downs) ^ set(ups))
        why = f"{alone[0]!r} has one factor of two" if alone else "it holds no lora_A and lora_B"
        raise UsageError(f"{file} is no LoRA adapter: {why}.")
    pairs = []
    for module, down in sorted(downs.items()):
        first, second = (_matrix(file, data, ranges[name]) for name in (ups[module], down))
        if first.shape[1] != second.shape[0]:
            raise UsageError(f"{file}: the factors of {module!r} have ranks {first.shape[1]} and {second.shape[0]}.")
        pairs.append(Factors(module, first, second))
    return Adapter(file, tuple(pairs))


def _configured(file: Path) -> dict[str, object]:
    try:
        document = json.loads((file.parent / "adapter_config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _matrix(file: Path, data: memoryview, tensor: TensorRange) -> Matrix:
    kind = numerals.BY_NAME.get(tensor.dtype or "")
    if kind is None or not kind.mantissa or len(tensor.shape) < 2:
        raise UsageError(f"{file}: {tensor.name!r} is no matrix of floats.")
    bits = np.frombuffer(data, kind.unsigned_dtype, tensor.length // kind.width, tensor.offset)
    if bits.size == 0 or bits.size != int(np.prod(tensor.shape, dtype=np.int64)):
        raise UsageError(f"{file}: {tensor.name!r} has another shape than it has elements.")
    values = numerals.widened(kind, bits).reshape(tensor.shape[0], -1)
    if not np.isfinite(values).all():
        raise UsageError(f"{file}: {tensor.name!r} holds what is not finite.")
    return values


def _module(pattern: re.Pattern[str], name: str) -> str:
    return pattern.sub("", name)


def _stem(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.removesuffix(".weight").removesuffix(".base_layer").replace("/", ".")


def _continues(one: str, other: str) -> bool:
    """Whether one name ends with the other, part by part."""
    return one == other or one.endswith("." + other) or other.endswith("." + one)


def _fitted(pair: Factors, difference: Matrix) -> tuple[float, Factors, float] | None:
    """(Share of power left, pair, scale) for the scale with which the product comes nearest to `difference`."""
    if (pair.up.shape[0], pair.down.shape[1]) != difference.shape:
        return None
    with np.errstate(all="ignore"):
        power = whole = both = 0.0
        for part in large.blocks(difference.shape):
            product = pair.up[part] @ pair.down
            power += float((product * product).sum())
            whole += float((difference[part] * difference[part]).sum())
            both += float((product * difference[part]).sum())
    if not (0 < power < np.inf and 0 < whole < np.inf):
        return None
    rounded = _simple(both / power)
    left = 0.0
    for part in large.blocks(difference.shape):
        rest = difference[part] - rounded * (pair.up[part] @ pair.down)
        left += float((rest * rest).sum())
    return left / whole, pair, rounded


def _simple(scale: float) -> float:
    """The fraction of small terms next to a fitted scale: alpha / rank is one; else the scale itself."""
    for denominator in range(1, 129):
        near = round(scale * denominator) / denominator
        if near and abs(near - scale) < 1e-3 * abs(scale):
            return near
    return scale
