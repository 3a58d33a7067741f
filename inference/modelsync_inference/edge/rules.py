"""The two small languages of the command line: which fields make up an input, and how answers are down-sampled.

Nothing is imported that takes time: a command line that is wrong says so at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from modelsync_protocol.errors import UsageError

Fields: TypeAlias = Mapping[str, tuple[str, ...]]
"""Of an input's name ('' for the only one) the message's fields that make up its rows, in order."""


@dataclass(frozen=True, slots=True)
class Every:
    """Each n-th answer."""

    n: int


@dataclass(frozen=True, slots=True)
class Change:
    """Answers that moved by more than the dead band: one for all outputs, or by output."""

    bands: float | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of `count` answers, or of those within `seconds`."""

    count: int | None = None
    seconds: float | None = None


SampleRule: TypeAlias = Every | Change | Mean


def parse_sample(text: str) -> SampleRule:
    """Read `every:N`, `change:BAND`, `change:NAME=BAND,…`, `mean:N` or `mean:Ns`; UsageError."""
    kind, _, value = text.partition(":")
    try:
        if kind == "every":
            return Every(_whole(value))
        if kind == "change":
            return Change(_bands(value))
        if kind == "mean" and value.endswith("s"):
            return Mean(seconds=_positive(value[:-1]))
        if kind == "mean":
            return Mean(count=_whole(value))
    except ValueError:
        pass
    raise UsageError(
        f"--edge-sample {text!r:.60} is none of every:N, change:BAND, change:NAME=BAND,…, mean:N and mean:Ns "
        "(N from 1, BAND from 0)."
    )


def parse_fields(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read `[INPUT=]FIELD,FIELD,…` arguments; UsageError."""
    fields: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, names = text.rpartition("=")
        found = tuple(part.strip() for part in names.split(","))
        if not all(found) or name.strip() in fields:
            raise UsageError(
                f"--edge-fields {text!r:.80} is not of the form FIELD,FIELD,… or INPUT=FIELD,…, once each."
            )
        fields[name.strip()] = found
    if "" in fields and len(fields) > 1:
        raise UsageError("--edge-fields without INPUT= is for models with one input; name the input in each.")
    return fields


def _bands(text: str) -> float | dict[str, float]:
    if "=" not in text:
        return _band(text)
    bands = {}
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        bands[name.strip() or _refuse()] = _band(value)
    return bands


def _band(text: str) -> float:
    band = float(text)
    return band if math.isfinite(band) and band >= 0 else _refuse()


def _whole(text: str) -> int:
    number = int(text)
    return number if number >= 1 else _refuse()


def _positive(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) and number > 0 else _refuse()


def _refuse() -> NoReturn:
    raise ValueError
