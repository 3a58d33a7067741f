"""The story's pictures: frames with the names that they were given, and who named which frame on each node."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from examples.camera.node import Node
from examples.camera.verdict import truth
from examples.stories.plot import COLOURS, figure, say

_GOOD = (COLOURS[0], COLOURS[2], COLOURS[3], COLOURS[4])
_SHOWN, _MOST = 8, 50
"""Frames of a row of pictures; dots of one colour (of more every n-th is drawn)."""


def draw(path: Path, nodes: Sequence[Node], marks: Sequence[tuple[str, int, str]]) -> None:
    """A row for each node: how sure it was of each frame, by the version that named it; wrong names stand out."""
    with figure(path, len(nodes), title="Frames of each node, and how sure it was of the name that it gave") as axes:
        for axis, node in zip(axes, nodes, strict=True):
            lines = node.lines()
            for version in dict.fromkeys(line["version"] for line in lines):
                for good, marker in ((True, "o"), (False, "x")):
                    chosen = [
                        line for line in lines if line["version"] == version and (line["label"] == truth(line)) is good
                    ]
                    chosen = chosen[:: max(1, len(chosen) // _MOST)]
                    axis.plot(
                        [line["frame"] for line in chosen], [line.get("sure", 0.0) for line in chosen], marker, ls="",
                        ms=2.5 if good else 4, color=_GOOD[(version - 1) % len(_GOOD)] if good else COLOURS[1],
                        label=f"version {version}{'' if good else ', wrong'}" if chosen else None,
                    )  # fmt: skip
            axis.set_ylim(0, 1.1)
            axis.set_yticks([0, 0.5, 1])
            axis.set_ylabel(f"{node.name}\n{node.model}")
            axis.legend(loc="lower right", fontsize=7, ncols=6)
            say([axis], [(at, what) for name, at, what in marks if name == node.name])
        axes[-1].set_xlabel("frame")


def sheet(path: Path, node: Node, frames: Path) -> None:
    """Frames of a node with the names that versions 1 and 2 gave them, a kind that is new among them."""
    lines = node.lines()
    rows: list[list[dict[str, Any]]] = []
    for version in (1, 2):
        chosen = [line for line in lines if line["version"] == version]
        fresh = [line for line in chosen if truth(line) == "gasket"][:3]
        rows.append((fresh + [line for line in chosen if truth(line) != "gasket"])[:_SHOWN])
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(2, _SHOWN, figsize=(9, 2.9), layout="constrained", squeeze=False)
    for row, chosen in enumerate(rows):
        for axis in axes[row]:
            axis.axis("off")
        for axis, line in zip(axes[row], chosen, strict=False):
            axis.imshow(Image.open(frames / line["name"]))
            good = line["label"] == truth(line)
            axis.set_title(
                f"{line['label']} {line.get('sure', 0):.0%}", fontsize=7, color="black" if good else COLOURS[1]
            )
        axes[row][0].text(-8, 32, f"version {row + 1}", rotation=90, va="center", ha="right", fontsize=8)
    with io.BytesIO() as made:
        drawn.savefig(made, dpi=90, facecolor="white")
        plt.close(drawn)
        Image.open(made).convert("RGB").quantize(96).save(path, optimize=True)
