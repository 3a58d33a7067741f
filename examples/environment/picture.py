"""The story's picture: which environment and model answered when, by the answers themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from examples.environment.edge import MODEL, UNIT, Answer
from examples.stories.plot import COLOURS, figure, say

_TITLES = {MODEL: "environment and model,\neach on its own", UNIT: "as one unit"}


def draw(path: Path, answers: Mapping[str, Sequence[Answer]], marks: Sequence[tuple[float, str]]) -> None:
    """A row for each service: the versions that answered, gaps where nobody did."""
    rows = [service for service in (MODEL, UNIT) if answers[service]]
    with figure(path, len(rows), title="Which versions answered, by the answers themselves") as axes:
        for axis, service in zip(axes, rows, strict=True):
            first = next((at for at, answer in enumerate(answers[service]) if answer.ok), 0)
            heard = [(answer.at, answer if answer.ok else None) for answer in answers[service][first:]]
            times = [at for at, _ in heard]
            for label, shift, colour in (("environment", 0.05, COLOURS[0]), ("model", -0.05, COLOURS[1])):
                versions = [float("nan") if a is None else getattr(a, label) + shift for _, a in heard]
                axis.plot(times, versions, color=colour, lw=2.2, label=label)
            silent = [at for at, answer in heard if answer is None]
            axis.plot(silent, [0.6] * len(silent), "|", color=COLOURS[5], ms=6, label="no answer")
            axis.set_ylim(0.4, 2.4)
            axis.set_yticks([1, 2], ["version 1", "version 2"])
            axis.set_ylabel(_TITLES[service])
            axis.legend(loc="center left", fontsize=7)
        say(axes, marks)
        axes[-1].set_xlabel("seconds of the run")
