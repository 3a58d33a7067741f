"""Writes a result of `python -m bench.scale` into docs/performance.md: a table, and the curves as a plot.

python -m bench.scale.page --result FILE --page FILE replaces what stands between the page's two markers, and the plot
in a folder beside the page which is named after it. The same result gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.scale import growth, targets

BEGIN = "<!-- written by python -m bench.scale.page: begin -->"
END = "<!-- written by python -m bench.scale.page: end -->"
_STATE = {True: "met", False: "**missed**", None: "not measured"}

AXES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("speed", "size"): ("artifact, MB", "publishing an update, s"),
    ("speed", "bases"): ("bases", "publishing, s"),
    ("speed", "files"): ("files", "publishing, s"),
    ("memory", "publish_mib"): ("artifact, MB", "publisher's peak, MiB"),
    ("many", "versions"): ("versions in the store", "publishing, s"),
}
"""What is known of curves' axes; another curve is drawn under its own name."""


def main() -> None:
    """Write page and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    options = parser.parse_args()
    write(options.result, options.page)


def write(result: Path, page: Path) -> None:
    """Write table and plot; SystemExit with a sentence if a file can't be used."""
    try:
        document = json.loads(result.read_text(encoding="utf-8"))
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}: run `make bench-scale` first.") from None
    pictures = page.with_suffix("")
    plotted = plot(document["measures"], pictures / "scale")
    section = section_of(document, f"{pictures.name}/scale.svg" if plotted else None)
    page.write_text(replaced(text, section), encoding="utf-8")


def replaced(page: str, section: str) -> str:
    """The page with another section between its markers; SystemExit if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page lacks the lines `{BEGIN}` and `{END}`, between which the table belongs.")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def section_of(document: Mapping[str, Any], picture: str | None) -> str:
    """Machine, table, plot, exponents and the measures' own notes, as Markdown."""
    measures, machine = document["measures"], document["machine"]
    scales = sorted({result["scale"] for result in measures.values()})
    lines = [
        f"{machine['day']}, {machine['cores']} cores ({machine['machine']}, {machine['memory_gib']} GiB), Python "
        f"{machine['python']}, {machine['zstd'] or 'no zstd'}; scale: {', '.join(scales)}.",
        "",
        "| case | before | target | measured | |",
        "|---|---|---|---|---|",
        *(
            f"| {verdict.row.case} | {verdict.row.before} | {verdict.row.target} | {verdict.measured} "
            f"| {_STATE[verdict.met]} |"
            for verdict in targets.judge(measures)
        ),
    ]
    if picture is not None:
        lines += ["", f"![How cost grows: each curve with its exponent]({picture})"]
    notes = [f"- {note}" for name in sorted(measures) for note in measures[name].get("notes", ())]
    failed = [
        f"- `{name}` was not measured: {measures[name]['error']}"
        for name in sorted(measures)
        if "error" in measures[name]
    ]
    if notes or failed:
        lines += ["", *notes, *failed]
    return "\n".join(lines)


def plot(measures: Mapping[str, Mapping[str, Any]], path: Path) -> bool:
    """All curves side by side, both axes logarithmic, each with its exponent; an .svg. False if there is none."""
    curves = {
        (name, curve): sorted((float(x), float(y)) for x, y in points if x > 0 and y > 0)
        for name in sorted(measures)
        for curve, points in sorted(measures[name].get("curves", {}).items())
    }
    curves = {key: points for key, points in curves.items() if len({x for x, _ in points}) > 1}
    if not curves:
        return False
    from matplotlib import pyplot, rc_context

    from modelsync_bench import plots

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with rc_context({**plots.STYLE, "svg.fonttype": "none"}):
        figure, grid = pyplot.subplots(
            rows, columns, figsize=(3.0 * columns, 2.6 * rows), layout="constrained", squeeze=False
        )
        for axes, (key, points) in zip(grid.flat, curves.items(), strict=False):
            what, _, against = key[1].replace("_", " ").partition(" by ")
            across, up = AXES.get(key, (against or "versions in the store", what))
            _curve(axes, points, across, up)
        for axes in list(grid.flat)[len(curves) :]:
            axes.set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return True


def _curve(axes: Any, points: list[tuple[float, float]], across: str, up: str) -> None:
    power = growth.exponent(points)
    (first_x, first_y), (last_x, _) = points[0], points[-1]
    axes.plot([first_x, last_x], [first_y, first_y * last_x / first_x], color="#D0D0D0", linewidth=1, label="linear")
    axes.plot(
        *zip(*points, strict=True),
        color="#000000",
        marker="D",
        markersize=4,
        linewidth=1,
        label=f"exponent {power:.2f}",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="#E8E8E8")
    axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
