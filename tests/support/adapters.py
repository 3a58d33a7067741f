"""Models with a merged LoRA, seeded, and its adapter as PEFT writes it. Not a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelsync_protocol.codecs import numerals
from modelsync_protocol.codecs.numerals import Numeral
from tests.server.tensors.worlds import safetensors

NAMES = ("layers.0.attn.q_proj", "layers.0.attn.v_proj")
ROWS, COLUMNS, RANK = 96, 160, 4
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Merge:
    """Two versions, and what was merged between them: module → (B: rows × rank, A: rank × columns)."""

    old: dict[str, Floats]
    new: dict[str, Floats]
    factors: dict[str, tuple[Floats, Floats]]
    scale: np.float32

    def files(self, kind: Numeral) -> tuple[bytes, bytes]:
        """Old and new as safetensors of that type; 8-bit integers with a scale for each row, as it fits to it."""
        return _file(self.old, kind), _file(self.new, kind)

    def adapter(self, kind: Numeral = numerals.F32, style: str = "peft") -> bytes:
        """The adapter as a safetensors file."""
        tensors: dict[str, tuple[str, NDArray[Any]]] = {}
        for module, (up, down) in self.factors.items():
            for name, factor in zip(_STYLES[style], (up, down), strict=True):
                tensors[name.format(module)] = kind.name, _bits(kind, factor)
        return safetensors(tensors)


_STYLES = {
    "peft": ("base_model.model.{}.lora_B.weight", "base_model.model.{}.lora_A.weight"),
    "peft-named": ("base_model.model.{}.lora_B.default.weight", "base_model.model.{}.lora_A.default.weight"),
    "diffusers": ("{}.lora.up.weight", "{}.lora.down.weight"),
    "kohya": ("{}.lora_up.weight", "{}.lora_down.weight"),
    "unrelated": ("te.{}.x.lora_B.weight", "te.{}.x.lora_A.weight"),
}


def merge(seed: int, kind: Numeral = numerals.F32, scale: float = 2.0) -> Merge:
    """A model whose two matrices are moved by about a hundredth; `kind` is the adapter's element type."""
    source = np.random.default_rng(seed)
    old: dict[str, Floats] = {"embed.weight": source.normal(0, 0.05, (64, 48)).astype(np.float32)}
    new = dict(old)
    factors = {}
    for name in NAMES:
        matrix = source.normal(0, 0.05, (ROWS, COLUMNS)).astype(np.float32)
        up, down = source.normal(0, 0.008, (ROWS, RANK)), source.normal(0, 0.05, (RANK, COLUMNS))
        pair = tuple(numerals.widened(kind, _bits(kind, f)).reshape(f.shape).astype(np.float32) for f in (up, down))
        sums = np.zeros((ROWS, COLUMNS), np.float32)
        for part in range(RANK):
            product = pair[0][:, part : part + 1].astype(np.float64) * pair[1][part]
            sums = (sums + product).astype(np.float32)
        old[f"{name}.weight"] = matrix
        new[f"{name}.weight"] = matrix + sums * np.float32(scale)
        factors[name] = (pair[0], pair[1])
    return Merge(old, new, factors, np.float32(scale))


def _bits(kind: Numeral, values: NDArray[Any]) -> NDArray[Any]:
    return numerals.narrowed(kind, values.astype(np.float64).reshape(-1)).reshape(values.shape)


def _file(tensors: dict[str, Floats], kind: Numeral) -> bytes:
    found: dict[str, tuple[str, NDArray[Any]]] = {}
    for name, values in tensors.items():
        if kind.mantissa:
            found[name] = kind.name, _bits(kind, values)
        else:
            scale = np.abs(values).max(1, keepdims=True) / 127
            found[name] = kind.name, np.rint(values / scale).astype(np.int8).view(np.uint8)
            found[f"{name}.scale"] = "f32", scale
    return safetensors(found)
