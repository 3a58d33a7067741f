"""The report's plots as SVG and PNG: dots on a logarithmic axis, one row a case, one mark a way.

The same data gives the same file, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot  # the backend comes first
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#7F7F7F")
"""Okabe and Ito's, which people with any colour vision tell apart; two darker ones for yellow and black."""

_MARKS = ("o", "s", "^", "v", "P", "X", "<", ">", "p", "h")
_OURS = ("D", "d", "*")
_EDGE = {"linewidths": 0.7, "edgecolors": "white"}
"""Marks that lie on each other stay apart."""

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "modelsync-bench",
    "svg.fonttype": "path",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}
"""Of every plot in the documents."""

_ROW, _WIDTH = 0.34, 9.0

Rows = Mapping[str, Mapping[str, float]]
"""Row's label → way → value, which is positive."""


def dots(
    rows: Rows,
    ways: Sequence[str],
    ours: frozenset[str],
    title: str,
    label: str,
    path: Path,
    *,
    unit: str = "bytes",
    written: bool = False,
) -> None:
    """Write `path` as .svg and .png. `ways` is the order of the legend and gives each way its mark,
    so that plots with the same `ways` agree; a way without a value is left out. Those in `ours` are black and larger.

    With `written` the values of `ours` stand beside their marks, to the right of all of the row's.
    """
    styles = _styles(ways, ours)
    with matplotlib.rc_context(STYLE):
        shown = [way for way in ways if any(way in row for row in rows.values())]
        legend_rows = -(-len(shown) // 5)
        height = _ROW * len(rows) + 1.35 + 0.24 * legend_rows
        figure, axes = pyplot.subplots(figsize=(_WIDTH, height), layout="constrained")
        names = list(rows)
        for place, name in enumerate(names):
            values = [rows[name][way] for way in ways if way in rows[name]]
            axes.plot([min(values), max(values)], [place, place], color="#D0D0D0", linewidth=1, zorder=1)
        for number, way in enumerate(shown):
            # Where three values of one way would hide each other, each has a height of its own.
            lift = 0.2 * (number - (len(shown) - 1) / 2) if written else 0.0
            points = [(rows[name][way], place + lift) for place, name in enumerate(names) if way in rows[name]]
            axes.scatter(*zip(*points, strict=True), label=way, zorder=4 if way in ours else 3, **styles[way])
        for place, name in enumerate(names if written else ()):
            text = ", ".join(short(round(rows[name][way], 2), unit) for way in ways if way in ours & rows[name].keys())
            right = max(rows[name].values())
            axes.annotate(text, (right, place), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8.5)
        if written:
            axes.margins(x=0.12)
        _axes(axes, names, label, unit)
        axes.set_title(title, loc="left", fontweight="bold", fontsize=10.5)
        figure.legend(loc="outside lower center", ncols=min(5, len(shown)), frameon=False, handletextpad=0.3)
        save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Without dates, so that nothing differs when nothing did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _styles(ways: Sequence[str], ours: frozenset[str]) -> dict[str, dict[str, Any]]:
    styles: dict[str, dict[str, Any]] = {}
    for number, way in enumerate(way for way in ways if way in ours):
        styles[way] = {"c": "#000000", "marker": _OURS[number % len(_OURS)], "s": 70, **_EDGE}
    for number, way in enumerate(way for way in ways if way not in ours):
        # Shape and colour both differ, and meet again only after 40 ways.
        colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
        styles[way] = {"c": colour, "marker": mark, "s": 42, **_EDGE}
    return styles


def _axes(axes: Any, names: Sequence[str], label: str, unit: str) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high / low < 12:  # a decade at least, so that the axis has two numbers
        middle = (low * high) ** 0.5
        axes.set_xlim(middle / 12**0.5, middle * 12**0.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value, unit)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#E8E8E8", zorder=0)
    axes.set_axisbelow(True)


def short(value: float, unit: str) -> str:
    """A tick's text: 20 kB, 0.5 s, $1,000."""
    if unit == "bytes":
        for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if value >= size * 0.999:
                return f"{value / size:g} {name}"
        return f"{value:g} B"
    if unit == "dollars":
        return f"${value:,.0f}" if value >= 100 else f"${value:,.4g}"
    return f"{value:g} s"
