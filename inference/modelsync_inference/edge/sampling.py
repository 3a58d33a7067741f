"""Down-sampling of scored messages: every n-th, on change, or the mean of a window. Pure; the caller brings the time.

A sampler's state does not grow with the number of messages. Means are exact: sums are kept as integers in units of the
smallest double, and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from modelsync_inference.edge import rules
from modelsync_inference.edge.rules import SampleRule
from modelsync_inference.errors import InputError
from modelsync_inference.runtimes.datatypes import Array

_UNIT_BITS = 1074
"""Every finite double is a whole multiple of 2^-1074."""


@dataclass(frozen=True, slots=True)
class Record:
    """A scored message. Records with different keys (model versions) never share a mean; `context` is handed on."""

    key: Hashable
    outputs: Mapping[str, Array]
    inputs: Mapping[str, Array] = field(default_factory=dict)
    context: Any = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What goes on: a record that stands for `count` (itself and those that did not go on since the last sample).

    With `mean` its values are the means of all of them, its context is the last one's, and `seconds` lie between the
    first and the last.
    """

    record: Record
    count: int = 1
    mean: bool = False
    seconds: float = 0.0


class Sampler(Protocol):
    """Decides which records go on."""

    @property
    def deadline(self) -> float | None:
        """When `flush` is due, in the time of `offer`; None: never by itself."""

    def offer(self, record: Record, now: float) -> list[Sample]:
        """Take a record; return what goes on because of it, in order. InputError if it lacks what is compared."""

    def flush(self) -> list[Sample]:
        """End the open window, if there is one."""


def make(rule: SampleRule | None) -> Sampler:
    """A new sampler by `rule`; without one everything goes on."""
    if rule is None:
        return All()
    if isinstance(rule, rules.Every):
        return Every(rule.n)
    if isinstance(rule, rules.Change):
        return Change(rule.bands)
    return Mean(count=rule.count, seconds=rule.seconds)


class All:
    """Everything goes on."""

    deadline = None

    def offer(self, record: Record, now: float) -> list[Sample]:
        """See Sampler."""
        return [Sample(record)]

    def flush(self) -> list[Sample]:
        """Nothing waits."""
        return []


class Every:
    """The n-th, 2n-th, … record."""

    deadline = None

    def __init__(self, n: int) -> None:
        self._n, self._seen = n, 0

    def offer(self, record: Record, now: float) -> list[Sample]:
        """See Sampler."""
        self._seen = (self._seen + 1) % self._n
        return [Sample(record, self._n)] if self._seen == 0 else []

    def flush(self) -> list[Sample]:
        """Nothing waits."""
        return []


class Change:
    """The first record, and each that differs from the last one that went on.

    A number differs if it is further away than its output's dead band; other values differ if they are not equal. A
    new version differs. Bands by name leave all other outputs out of the comparison; inputs are never compared.
    """

    deadline = None

    def __init__(self, bands: float | Mapping[str, float]) -> None:
        self._bands = bands
        self._last: Record | None = None
        self._skipped = 0

    def offer(self, record: Record, now: float) -> list[Sample]:
        """See Sampler."""
        if not isinstance(self._bands, float):
            for name in self._bands:
                if name not in record.outputs:
                    raise InputError(f"--edge-sample compares the output {name!r}, which the model has not.")
        self._skipped += 1
        if self._last is not None and not self._differs(self._last, record):
            return []
        count, self._skipped = self._skipped, 0
        self._last = replace(record, inputs={}, context=None)
        return [Sample(record, count)]

    def flush(self) -> list[Sample]:
        """Nothing waits."""
        return []

    def _differs(self, old: Record, new: Record) -> bool:
        if old.key != new.key or old.outputs.keys() != new.outputs.keys():
            return True
        bands = dict.fromkeys(new.outputs, self._bands) if isinstance(self._bands, float) else self._bands
        return any(_moved(old.outputs[name], new.outputs[name], band) for name, band in bands.items())


class Mean:
    """The mean over windows of `count` records or `seconds` from a window's first record.

    A window ends early when the version, or the shape of a tensor, changes. Text is not averaged: the last one stands.
    """

    def __init__(self, *, count: int | None = None, seconds: float | None = None) -> None:
        self._count, self._seconds = count, seconds
        self._window: _Window | None = None

    @property
    def deadline(self) -> float | None:
        """See Sampler."""
        if self._window is None or self._seconds is None:
            return None
        return self._window.began + self._seconds

    def offer(self, record: Record, now: float) -> list[Sample]:
        """See Sampler."""
        done = []
        if self._window is not None:
            late = self.deadline is not None and now >= self.deadline
            if late or not self._window.takes(record):
                done = self.flush()
        if self._window is None:
            self._window = _Window(record, now)
        self._window.add(record, now)
        if self._window.count == self._count:
            done += self.flush()
        return done

    def flush(self) -> list[Sample]:
        """See Sampler."""
        window, self._window = self._window, None
        return [] if window is None else [window.sample()]


class _Window:
    def __init__(self, record: Record, now: float) -> None:
        self.began = self._ended = now
        self.count = 0
        self._layout = _layout(record)
        self._last = record
        self._sums = [_Sum(array) for array in _arrays(record)]

    def takes(self, record: Record) -> bool:
        return _layout(record) == self._layout

    def add(self, record: Record, now: float) -> None:
        for total, array in zip(self._sums, _arrays(record), strict=True):
            total.add(array)
        self.count += 1
        self._last, self._ended = record, now

    def sample(self) -> Sample:
        means = [total.mean(self.count) for total in self._sums]
        outputs = dict(zip(self._last.outputs, means, strict=False))
        inputs = dict(zip(self._last.inputs, means[len(outputs) :], strict=True))
        record = replace(self._last, outputs=outputs, inputs=inputs)
        return Sample(record, self.count, True, self._ended - self.began)


class _Sum:
    """An exact sum of arrays of one shape, element by element; of text the last array."""

    def __init__(self, like: Array) -> None:
        self._shape = like.shape
        self._exact = [0] * like.size
        self._special = [0.0] * like.size
        self._text: Array | None = None

    def add(self, array: Array) -> None:
        if array.dtype.kind not in "biuf":
            self._text = array
            return
        for index, value in enumerate(array.ravel().tolist()):
            if isinstance(value, float) and not math.isfinite(value):
                self._special[index] += value
                continue
            numerator, denominator = value.as_integer_ratio()
            self._exact[index] += numerator << (_UNIT_BITS + 1 - denominator.bit_length())

    def mean(self, count: int) -> Array:
        if self._text is not None:
            return self._text
        unit = count << _UNIT_BITS
        means = [float(Fraction(total, unit)) for total in self._exact]
        found = [special if special != 0 else mean for mean, special in zip(means, self._special, strict=True)]
        return np.array(found, dtype=np.float64).reshape(self._shape)


def _arrays(record: Record) -> list[Array]:
    return [*record.outputs.values(), *record.inputs.values()]


def _layout(record: Record) -> Hashable:
    tensors = [(name, array.shape, array.dtype.kind) for name, array in record.outputs.items()]
    tensors += [(name, array.shape, array.dtype.kind) for name, array in record.inputs.items()]
    return record.key, tuple(tensors)


def _moved(old: Array, new: Array, band: float) -> bool:
    if old.shape != new.shape:
        return True
    if old.dtype.kind not in "biuf" or new.dtype.kind not in "biuf":
        return bool(old.tolist() != new.tolist())
    before, after = old.astype(np.float64), new.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (before == after) | (np.isnan(before) & np.isnan(after)) | (np.abs(after - before) <= band)
    return not bool(same.all())
