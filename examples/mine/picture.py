"""The story's picture, drawn from the plant's own log: who had the set-point, and what the ore asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.mine.line import Limits
from examples.mine.verdict import LineLog
from examples.stories.plot import COLOURS, figure, say

_SHADES = {"fallback": COLOURS[4], "operator": COLOURS[3], "interlock": COLOURS[1]}


def draw(path: Path, logs: dict[str, LineLog], marks: Sequence[tuple[float, str, str]], limits: Limits) -> None:
    """A row for each line: the best feed, the set-point in force, the limits, and what happened when."""
    begin = min(log.scans[0]["t"] for log in logs.values())
    title = "The feed's set-point of each line, by the plant's own log"
    with figure(path, len(logs), title=title) as axes:
        for axis, (name, log) in zip(axes, logs.items(), strict=True):
            _row(axis, name, log, limits, begin)
            say([axis], [(t - begin, what) for t, line, what in marks if line == name])
        axes[-1].set_xlabel("seconds of the run")


def _row(axis: Any, name: str, log: LineLog, limits: Limits, begin: float) -> None:
    times = [scan["t"] - begin for scan in log.scans]
    axis.axhspan(limits.low, limits.high, color=COLOURS[5], alpha=0.06)
    axis.plot(
        times, [scan["best"] for scan in log.scans], color=COLOURS[2], lw=1, ls="--", label="best feed for the ore"
    )
    axis.plot(times, [scan["set_point"] for scan in log.scans], color=COLOURS[0], lw=1.4, label="set-point in force")
    for source, colour in _SHADES.items():
        label = {"fallback": "the plant's fallback", "operator": "operator", "interlock": "interlock"}[source]
        for first, last in _runs(log, source):
            axis.axvspan(first - begin, last - begin, color=colour, alpha=0.25, lw=0, label=label)
            label = ""
    axis.set_ylim(limits.low - 20, limits.high + 20)
    axis.set_ylabel(f"{name}\nt/h")
    axis.legend(loc="lower right", fontsize=7, ncols=5)


def _runs(log: LineLog, source: str) -> list[tuple[float, float]]:
    """(from, to) of each stretch in which the set-point came from `source`."""
    found: list[tuple[float, float]] = []
    before = None
    for scan in log.scans:
        if scan["source"] == source:
            found = [*found[:-1], (found[-1][0], scan["t"])] if before == source else [*found, (scan["t"], scan["t"])]
        before = scan["source"]
    return found
