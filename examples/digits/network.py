"""A small CNN in plain numpy: forward, backward, AdamW. Knows neither the data set nor ONNX.

conv 3x3 (1 to 32), ReLU, conv 3x3 (32 to 64), ReLU, max pool 2x2, dense 160, ReLU, dense 10: 184,426 weights.
Images are (n, 1, 8, 8) float32 from 0 to 1; logits are (n, 10) float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]
"""<layer>.weight in the layer's shape (outputs first) and <layer>.bias (outputs,)."""

SHAPES = {"conv1": (32, 1, 3, 3), "conv2": (64, 32, 3, 3), "dense1": (160, 1024), "dense2": (10, 160)}


def initial(rng: np.random.Generator) -> Weights:
    """He-initialised weights (He et al. 2015, arXiv:1502.01852), biases zero."""
    weights: Weights = {}
    for layer, shape in SHAPES.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{layer}.weight"] = rng.normal(0, scale, shape).astype(np.float32)
        weights[f"{layer}.bias"] = np.zeros(shape[0], np.float32)
    return weights


@dataclass(frozen=True, slots=True)
class _Trace:
    """What the backward pass needs of a forward pass."""

    columns1: Array
    active1: Array
    columns2: Array
    active2: Array
    pooled: Array
    hidden: Array
    logits: Array


def logits(weights: Weights, images: Array) -> Array:
    """The network's answers to `images`."""
    return _forward(weights, images).logits


def gradients(weights: Weights, images: Array, labels: npt.NDArray[np.int64]) -> Weights:
    """Gradients of the mean cross-entropy on `images`, by the names of `weights`."""
    n = len(images)
    trace = _forward(weights, images)
    exps = np.exp(trace.logits - trace.logits.max(axis=1, keepdims=True))
    d_logits = exps / exps.sum(axis=1, keepdims=True)
    d_logits[np.arange(n), labels] -= 1
    d_logits /= n
    result = {"dense2.weight": d_logits.T @ trace.hidden, "dense2.bias": d_logits.sum(axis=0)}
    d_hidden = (d_logits @ weights["dense2.weight"]) * (trace.hidden > 0)
    result |= {"dense1.weight": d_hidden.T @ trace.pooled, "dense1.bias": d_hidden.sum(axis=0)}
    d_active2 = _unpool(d_hidden @ weights["dense1.weight"], trace)
    result |= _conv_gradients("conv2", d_active2, trace.columns2)
    d_columns2 = _rows(d_active2) @ weights["conv2.weight"].reshape(64, -1)
    d_active1 = _fold(d_columns2, n) * (trace.active1 > 0)
    return result | _conv_gradients("conv1", d_active1, trace.columns1)


class AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101): every weight moves a little at each step."""

    def __init__(self, weights: Weights, rate: float, decay: float) -> None:
        """Owns `weights`: `step` changes them in place. `rate` and `decay` are per step."""
        self._weights, self._rate, self._decay = weights, rate, decay
        self._mean = {name: np.zeros_like(w) for name, w in weights.items()}
        self._square = {name: np.zeros_like(w) for name, w in weights.items()}
        self._steps = 0

    def step(self, images: Array, labels: npt.NDArray[np.int64]) -> None:
        """One step on one batch."""
        self._steps += 1
        for name, gradient in gradients(self._weights, images, labels).items():
            mean, square, weight = self._mean[name], self._square[name], self._weights[name]
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            unbiased = np.sqrt(square / np.float32(1 - 0.999**self._steps)) + np.float32(1e-8)
            move = mean / np.float32(1 - 0.9**self._steps) / unbiased
            weight -= np.float32(self._rate) * (move + np.float32(self._decay) * weight)


def _forward(weights: Weights, images: Array) -> _Trace:
    n = len(images)
    columns1 = _columns(images)
    active1 = _conv(columns1, weights["conv1.weight"], weights["conv1.bias"], n)
    columns2 = _columns(active1)
    active2 = _conv(columns2, weights["conv2.weight"], weights["conv2.bias"], n)
    pooled = active2.reshape(n, 64, 4, 2, 4, 2).max(axis=(3, 5)).reshape(n, -1)
    hidden = np.maximum(pooled @ weights["dense1.weight"].T + weights["dense1.bias"], 0)
    answer = hidden @ weights["dense2.weight"].T + weights["dense2.bias"]
    return _Trace(columns1, active1, columns2, active2, pooled, hidden, answer)


def _columns(images: Array) -> Array:
    """Patches of 3x3 around each pixel, zero-padded: (n, c, 8, 8) to (n * 64, c * 9)."""
    n, channels = images.shape[:2]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.empty((n, 8, 8, channels, 3, 3), np.float32)
    for y in range(3):
        for x in range(3):
            patches[..., y, x] = padded[:, :, y : y + 8, x : x + 8].transpose(0, 2, 3, 1)
    return patches.reshape(n * 64, channels * 9)


def _fold(columns: Array, n: int) -> Array:
    """The transpose of `_columns`: sums every patch back onto its pixels."""
    patches = columns.reshape(n, 8, 8, -1, 3, 3).transpose(0, 3, 4, 5, 1, 2)
    padded = np.zeros((n, patches.shape[1], 10, 10), np.float32)
    for y in range(3):
        for x in range(3):
            padded[:, :, y : y + 8, x : x + 8] += patches[:, :, y, x]
    inner: Array = padded[:, :, 1:9, 1:9]
    return inner


def _rows(images: Array) -> Array:
    """(n, c, 8, 8) to (n * 64, c): one row a pixel, as `_columns` orders them."""
    return images.transpose(0, 2, 3, 1).reshape(-1, images.shape[1])


def _conv(columns: Array, weight: Array, bias: Array, n: int) -> Array:
    rows = np.maximum(columns @ weight.reshape(len(weight), -1).T + bias, 0)
    images: Array = rows.reshape(n, 8, 8, len(weight)).transpose(0, 3, 1, 2)
    return images


def _conv_gradients(layer: str, d_active: Array, columns: Array) -> Weights:
    d_rows = _rows(d_active)
    weight = (d_rows.T @ columns).reshape(SHAPES[layer])
    return {f"{layer}.weight": weight, f"{layer}.bias": d_rows.sum(axis=0)}


def _unpool(d_pooled: Array, trace: _Trace) -> Array:
    """Gradient through the pool and the ReLU before it; of equal maxima each gets the whole gradient."""
    n = len(d_pooled)
    blocks = trace.active2.reshape(n, 64, 4, 2, 4, 2)
    winners = (blocks == trace.pooled.reshape(n, 64, 4, 1, 4, 1)) & (blocks > 0)
    spread: Array = (winners * d_pooled.reshape(n, 64, 4, 1, 4, 1)).reshape(n, 64, 8, 8)
    return spread
