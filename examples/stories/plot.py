"""Plots of a story: one look for all of them. What is drawn is the story's business."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
