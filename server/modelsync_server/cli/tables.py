"""Tables for people: on a terminal with rich, elsewhere as plain aligned columns without colour."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

_PLAIN_WIDTH = 10_000


def show(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print rows under headings; those named in `right` are numbers. Text is shown as it is, control characters not."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    table = Table(box=SIMPLE_HEAD if terminal else None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name in right)
    for row in rows:
        table.add_row(*(Text(printable("" if cell is None else str(cell))) for cell in row))
    if terminal:
        Console(file=sys.stdout).print(table)
        return
    console = Console(file=sys.stdout, width=_PLAIN_WIDTH, no_color=True, color_system=None)
    with console.capture() as capture:
        console.print(table)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines() if line.strip()))


def printable(text: str) -> str:
    """`text` without what could steer a terminal: what a store says is another's."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def needs(requires: Mapping[str, str]) -> str:
    """What a version requires of a device, for people."""
    from modelsync_protocol.requirements.terms import told

    return printable(", ".join(told(key, value) for key, value in sorted(requires.items())))


def device(twin: Mapping[str, Any]) -> tuple[str, str, str]:
    """A twin as a row: id, connection, and each model as `name 2 active` or `name 1 -> 2 waiting`."""
    reported = (twin.get("properties") or {}).get("reported") or {}
    models = (reported.get("modelsync") or {}).get("models") or {}
    said = []
    for name, model in sorted(models.items()) if isinstance(models, Mapping) else ():
        if isinstance(model, Mapping):
            has, wanted = model.get("version"), model.get("desired")
            number = f"{has or '-'}" if wanted in (None, has) else f"{has or '-'} -> {wanted}"
            said.append(f"{name} {number} {model.get('state', '?')}")
    return str(twin.get("deviceId")), str(twin.get("connectionState", "")), ", ".join(said)


def size(count: int | None) -> str:
    """Bytes with thousands separated, or `?`."""
    return "?" if count is None else f"{count:,}"


def day(moment: datetime | None) -> str:
    """A date and minute, UTC, or `?`."""
    return "?" if moment is None else moment.strftime("%Y-%m-%d %H:%M")
