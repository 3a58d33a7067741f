"""Plots of a story: one look for all of them. What is drawn is the story's business."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_POINTS = 6
_CHARACTER = 0.58
"""Width of a character, in its height, on the average."""

COLOURS = ("#1f5f8b", "#d1495b", "#3a7d44", "#8d6a9f", "#e09f3e", "#5c6770")


@contextmanager
def figure(path: Path, rows: int = 1, *, heights: tuple[float, ...] | None = None, title: str = "") -> Iterator[Any]:
    """Axes, `rows` of them above each other with one x axis; drawn into `path` (.svg or .png by its suffix) at the end.

    The same data give the same bytes.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from cycler import cycler

    look: Any = {
        "svg.hashsalt": "modelsync", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "axes.prop_cycle": cycler(color=COLOURS), "legend.frameon": False, "path.simplify": True,
    }  # fmt: skip
    with plt.rc_context(look):
        drawn, axes = plt.subplots(
            rows,
            1,
            sharex=True,
            squeeze=False,
            figsize=(9, 1.2 + 2.1 * rows),
            height_ratios=heights,
            layout="constrained",
        )
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=11)
        try:
            yield [row[0] for row in axes]
            drawn.savefig(path, dpi=110, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)
        finally:
            plt.close(drawn)


def say(axes: Sequence[Any], marks: Sequence[tuple[float, str]]) -> None:
    """What happened when: a line through all of `axes`, its words above the first, none over another's.

    For when everything else is drawn: the width of a word depends on the range of x.
    """
    top = axes[0]
    first, last = top.get_xlim()
    wide = top.get_position().width * top.figure.get_figwidth() * 72
    ends: list[float] = []
    """By row of words, how far it is taken."""
    for at, what in sorted(marks):
        for axis in axes:
            axis.axvline(at, color=COLOURS[5], lw=0.6, alpha=0.7)
        needed = (len(what) + 2) * _POINTS * _CHARACTER * (last - first) / wide
        begin = min(at, last - needed) if at + needed > last else at
        row = next((row for row, end in enumerate(ends) if end <= begin), len(ends))
        ends[row : row + 1] = [begin + needed]
        place: Any = {"xy": (begin, 1), "xycoords": top.get_xaxis_transform(), "textcoords": "offset points"}
        top.annotate(f" {what}", **place, xytext=(0, 2 + 1.25 * _POINTS * row), fontsize=_POINTS, color="#333333")
    top.set_xlim(first, last)
