"""Draws the walks of docs/architecture.md: `python -m tests.support.walks`. Only the order of the stops is said here.

What a stop does is the first sentence of its room, which rooms touch is the table of rooms (tests/rooms.py), and the
states and their reasons are the daemon's table; a walk that the code does not have is an error.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from modelsync_daemon.disk.states import TRANSITIONS, State
from tests.rooms import ROOMS, ROOT, package

FOLDER = ROOT / "docs" / "architecture"


class WalkError(Exception):
    """The walk leads where the code does not."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A room that the walk enters, as `deployable/room`; `states` are the model's steps while it is there."""

    room: str
    states: tuple[State, ...] = ()

    @property
    def deployable(self) -> str:
        return self.room.partition("/")[0]


CHUNK = (
    Stop("server/publish"),
    Stop("server/encode"),
    Stop("server/publish"),
    Stop("server/trust"),
    Stop("server/store"),
    Stop("server/origin"),
    Stop("daemon/transfer"),
    Stop("daemon/trust"),
    Stop("daemon/build"),
    Stop("daemon/disk"),
    Stop("daemon/activate"),
    Stop("inference/follow"),
    Stop("inference/model"),
    Stop("inference/runtimes"),
)
DESIRED = (
    Stop("daemon/control"),
    Stop("daemon/reconcile", (State.IDLE, State.RESOLVING)),
    Stop("daemon/workers"),
    Stop("daemon/build", (State.RESOLVING, State.PLANNING, State.FETCHING, State.ASSEMBLING, State.PROBING)),
    Stop("daemon/workers"),
    Stop("daemon/reconcile"),
    Stop("daemon/activate", (State.PROBING, State.ACTIVATING, State.PROBATION, State.ACTIVE)),
    Stop("inference/follow"),
    Stop("inference/model"),
)
WALKS = {"chunk": CHUNK, "desired": DESIRED}

_BETWEEN = {("server", "daemon"): "over HTTP", ("daemon", "inference"): "through the data directory"}
_COLOURS = {"server": "#dbe9f6", "daemon": "#e2f0d9", "inference": "#fbe5d6"}
_WIDTH, _LINE, _PAD, _GAP = 760, 18, 10, 34
_COLUMNS = 108


def picture(walk: Sequence[Stop]) -> str:
    """The walk as SVG. WalkError: a room, a touch between two rooms, or a state's step does not exist."""
    parts: list[str] = []
    top = 1
    for number, stop in enumerate(walk):
        if number:
            parts += _arrow(top, _touch(walk[number - 1], stop))
            top += _GAP
        height, box = _box(top, number + 1, stop)
        parts += box
        top += height
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 1}" width="{_WIDTH}" height="{top + 1}" '
        'font-family="sans-serif" font-size="13">'
    )
    background = f'<rect width="{_WIDTH}" height="{top + 1}" fill="#ffffff"/>'
    return "\n".join([head, background, *parts, "</svg>"]) + "\n"


def _box(top: int, number: int, stop: Stop) -> tuple[int, list[str]]:
    steps = [f"{a} → {b}: {_reason(a, b)}" for a, b in pairwise(stop.states)]
    lines = [*textwrap.wrap(_says(stop.room), _COLUMNS), *steps]
    height = 2 * _PAD + _LINE * (len(lines) + 1)
    shown = [_text(top + _PAD + _LINE - 4, f"{number}. {stop.room}", ' font-weight="bold"')]
    shown += [_text(top + _PAD + _LINE * (n + 2) - 4, line) for n, line in enumerate(lines)]
    frame = (
        f'<rect x="1" y="{top}" width="{_WIDTH - 2}" height="{height}" rx="6" '
        f'fill="{_COLOURS[stop.deployable]}" stroke="#555555"/>'
    )
    return height, [frame, *shown]


def _arrow(top: int, text: str) -> list[str]:
    line = f'<path d="M40 {top} V{top + _GAP - 8}" stroke="#555555" stroke-width="2"/>'
    end = f'<path d="M34 {top + _GAP - 10} H46 L40 {top + _GAP} Z" fill="#555555"/>'
    return [line, end, f'<text x="58" y="{top + 22}" fill="#555555">{escape(text)}</text>']


def _text(y: int, text: str, style: str = "") -> str:
    return f'<text x="{_PAD + 4}" y="{y}" fill="#000000"{style}>{escape(text)}</text>'


def _reason(before: State, after: State) -> str:
    if (before, after) not in TRANSITIONS:
        raise WalkError(f"a model can't go from {before} to {after}")
    return TRANSITIONS[before, after]


def _touch(before: Stop, after: Stop) -> str:
    """How the walk gets from one room into the next."""
    ends = (before.deployable, after.deployable)
    if ends[0] != ends[1]:
        if ends not in _BETWEEN:
            raise WalkError(f"nothing leads from {ends[0]} to {ends[1]}")
        return _BETWEEN[ends]
    if _imports(before.room, after.room):
        return f"{_name(before)} imports {_name(after)}"
    if _imports(after.room, before.room):
        return f"{_name(before)} is imported by {_name(after)}"
    raise WalkError(f"neither of {before.room} and {after.room} imports the other")


def _name(stop: Stop) -> str:
    return stop.room.partition("/")[2]


def _folder(room: str) -> Path:
    deployable, _, name = room.partition("/")
    if name not in ROOMS[deployable]:
        raise WalkError(f"there is no room {room}")
    return package(deployable) / name


def _says(room: str) -> str:
    """The first sentence of the room."""
    text = ast.get_docstring(ast.parse((_folder(room) / "__init__.py").read_text(encoding="utf-8")))
    if not text:
        raise WalkError(f"{room} does not say what it does")
    return " ".join(text.partition("\n\n")[0].split())


def _imports(room: str, other: str) -> bool:
    deployable, _, name = room.partition("/")
    return other.partition("/")[2] in ROOMS[deployable][name].split()


def main() -> None:
    """Writes all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, walk in WALKS.items():
        (FOLDER / f"{name}.svg").write_text(picture(walk), encoding="utf-8")


if __name__ == "__main__":
    main()
