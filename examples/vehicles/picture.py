"""The story's picture: drift as Prometheus has it, faults found by the lake, versions by the scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.stories.plot import COLOURS, figure, say
from examples.vehicles.learning import DRIFTED
from examples.vehicles.verdict import Judged

_BIN_SECONDS = 5.0

Series = Sequence[dict[str, Any]]


def draw(
    path: Path,
    drift: Series,
    versions: Series,
    windows: Sequence[Judged],
    marks: Sequence[tuple[float, str]],
    begin: float,
) -> None:
    """Three rows: the drift score, the share of faults found, vehicles by version; what happened when, above all."""
    with figure(path, 3, heights=(1.5, 1.2, 0.8), title="Around the loop, in one run") as axes:
        _drift(axes[0], drift, begin)
        _found(axes[1], windows, begin)
        _versions(axes[2], versions, begin)
        say(axes, [(at - begin, what) for at, what in marks])
        axes[-1].set_xlabel("seconds of the run")


def _drift(axis: Any, series: Series, begin: float) -> None:
    for each in series:
        points = [(float(at) - begin, float(value)) for at, value in each["values"]]
        axis.plot(*zip(*points, strict=True), label=each["metric"].get("statistic", ""), lw=1.4)
    axis.axhline(DRIFTED, color=COLOURS[1], ls="--", lw=0.9, label=f"alert above {DRIFTED:g}")
    axis.set_yscale("symlog", linthresh=0.5)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("drift score\n(PSI)")
    axis.legend(loc="upper center", fontsize=7)


def _found(axis: Any, windows: Sequence[Judged], begin: float) -> None:
    bins: dict[int, list[Judged]] = {}
    for each in windows:
        bins.setdefault(int((each.time - begin) // _BIN_SECONDS), []).append(each)
    times = [(number + 0.5) * _BIN_SECONDS for number in sorted(bins)]
    found = [_share([(each.found, each.faults) for each in bins[number]]) for number in sorted(bins)]
    wrong = [_share([(each.alarmed, each.fine) for each in bins[number]]) for number in sorted(bins)]
    axis.plot(times, found, color=COLOURS[2], marker=".", label="faults found, of those there were")
    axis.plot(times, wrong, color=COLOURS[1], marker=".", label="alarms where nothing was wrong")
    axis.set_ylim(-2, 103)
    axis.set_ylabel("per cent")
    axis.legend(loc="center", fontsize=7)


def _share(pairs: Sequence[tuple[int, int]]) -> float:
    return 100.0 * sum(of for of, _ in pairs) / max(1, sum(all_of for _, all_of in pairs))


def _versions(axis: Any, series: Series, begin: float) -> None:
    for number, each in enumerate(sorted(series, key=lambda one: int(one["metric"]["version"]))):
        points = [(float(at) - begin, float(value)) for at, value in each["values"]]
        times, counts = zip(*points, strict=True)
        axis.step(
            times,
            counts,
            where="post",
            color=COLOURS[number % len(COLOURS)],
            label=f"version {each['metric']['version']}",
        )
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel("vehicles")
    axis.legend(loc="center", fontsize=7)
