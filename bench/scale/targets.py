"""The table that `make bench-scale` must reach, row by row: bounds on named values and curves. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.scale import growth

Results = Mapping[str, Mapping[str, Any]]
"""By measure: `values`, `curves`, `notes`."""


@dataclass(frozen=True, slots=True)
class Bound:
    """`measure`'s value or curve `name` as `text` shows it, held against `least` and `most`.

    `of` makes a number of a curve; without it the value is taken as it is, and a bool must be true.
    """

    measure: str
    name: str
    text: str
    most: float | None = None
    least: float | None = None
    of: Callable[[growth.Curve], float] | None = None

    def found(self, results: Results) -> float | None:
        """The number, or None if it was not measured."""
        result = results.get(self.measure, {})
        if self.of is None:
            value = result.get("values", {}).get(self.name)
            return None if value is None else float(value)
        curve = result.get("curves", {}).get(self.name)
        try:
            return None if not curve else self.of([(float(x), float(y)) for x, y in curve])
        except (ValueError, KeyError, ZeroDivisionError):
            return None  # too few points for that number

    def met(self, value: float) -> bool:
        """Whether a number is within the bounds; one without bounds is a bool that must be true."""
        if self.most is None and self.least is None:
            return value == 1.0
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what is done, what it cost before, and the bounds that it must keep."""

    case: str
    before: str
    target: str
    bounds: tuple[Bound, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row's outcome: what was measured, and whether all of it is within its bounds; None if some was not measured."""

    row: Row
    measured: str
    met: bool | None


def _largest(curve: growth.Curve) -> float:
    return max(y for _, y in curve)


TABLE = (
    Row(
        "publish an update, 193 MB of float16, two cores: time by `zstd -19 --long=31 -T2 --patch-from`'s",
        "0.6 ×",
        "≤ 0.3 ×",
        (Bound("speed", "update_time_ratio", "{:.2f} ×", most=0.3),),
    ),
    Row(
        "publisher's peak memory, 193 MB → 2 GB → 10 GB",
        "948 MiB, grows",
        "≤ 640 MiB, flat",
        (
            Bound("memory", "publish_mib", "{:.0f} MiB at most", most=640, of=_largest),
            Bound("memory", "publish_mib", "× {:.2f} from the smallest to the largest", most=1.1, of=growth.ratio),
        ),
    ),
    Row(
        "growth of publishing's time with size",
        "not measured",
        "exponent ≤ 1.05",
        (Bound("speed", "size", "exponent {:.2f}", most=1.05, of=growth.exponent),),
    ),
    Row(
        "growth with bases",
        "not measured",
        "≤ 0.6 of linear",
        (Bound("speed", "bases", "{:.2f} of linear", most=0.6, of=growth.of_linear),),
    ),
    Row(
        "growth with files",
        "not measured",
        "exponent ≤ 1.05",
        (Bound("speed", "files", "exponent {:.2f}", most=1.05, of=growth.exponent),),
    ),
    Row(
        "growth with versions in the store",
        "not measured",
        "none (± 10 %)",
        (Bound("many", "versions", "× {:.2f} from the emptiest to the fullest", most=1.1, of=growth.ratio),),
    ),
    Row(
        "environment of 5,000 files (7 MB), nine changed: publish",
        "3.0 s, 357 MiB",
        "≤ 1 s, ≤ 150 MiB",
        (
            Bound("speed", "tree_5000_seconds", "{:.2f} s", most=1.0),
            Bound("speed", "tree_5000_mib", "{:.0f} MiB", most=150),
        ),
    ),
    Row(
        "30,000 files (1 GB), nine changed: publish, by the time of `tar` and `sha256sum` of them",
        "not through in 12 min",
        "≤ 10 ×",
        (Bound("speed", "tree_update_tar_ratio", "{:.1f} ×", most=10),),
    ),
    Row(
        "pull of the 193 MB update: the device, a core",
        "15 MB/s",
        "≥ 60 MB/s with the compiled core",
        (Bound("core", "pull_mb_per_core_second", "{:.0f} MB/s", least=60),),
    ),
    Row(
        "10 GB artifact: publish, pull, update by 1 % of its tensors",
        "fails",
        "works, device in idle + 32 MiB",
        (
            Bound("memory", "ten_gb_works", "works: {:.0f} (1 = yes)"),
            Bound("memory", "ten_gb_device_mib_over_idle", "idle + {:.0f} MiB", most=32),
        ),
    ),
    Row(
        "2 local workers of the engine, one killed with -9 in the middle",
        "not possible",
        "same bytes, ≤ 1.3 × the time",
        (
            Bound("engine", "killed_same_bytes", "same bytes: {:.0f} (1 = yes)"),
            Bound("engine", "killed_time_ratio", "{:.2f} × the time", most=1.3),
        ),
    ),
)


def judge(results: Results) -> list[Verdict]:
    """Each row of the table against what was measured."""
    return [_verdict(row, results) for row in TABLE]


def _verdict(row: Row, results: Results) -> Verdict:
    said, kept, missing = [], True, False
    for bound in row.bounds:
        value = bound.found(results)
        if value is None:
            missing = True
            said.append(f"{bound.measure}'s {bound.name} was not measured")
        else:
            kept = kept and bound.met(value)
            said.append(bound.text.format(value))
    return Verdict(row, ", ".join(said), False if not kept else None if missing else True)
