"""Keeps the figures that tests measure, so that docs/reliability.md and docs/footprint.md are written by the tests.

A test calls `record(table, row, **columns)` with what it has seen and asserted. Each row goes to a file of its own
below `build/figures/`, so that parallel tests don't meet. `make figures` (tests/support/pages.py) then merges the rows
into docs/PAGE/TABLE.json and writes docs/PAGE.md anew between these two lines:

    <!-- figures: TABLE -->
    <!-- end -->

Put them where the table should stand, in one page; its first column is the row's name, headed `first` of the JSON
(edit it there).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEASURED = Path(os.environ.get("MODELSYNC_FIGURES", ROOT / "build" / "figures"))
"""Where this machine's runs leave their rows: TABLE/HASH.json. Not kept with the source."""

_TABLE = re.compile(r"[a-z][a-z0-9-]*")


def record(table: str, row: str, **columns: int | float | str) -> None:
    """Keep one row of `table` (a name in kebab case), instead of what an earlier run measured for it.

    `columns` come in the order they are given; an underscore in a name becomes a blank. Numbers are figures, texts are
    short. May be called from any test process.
    """
    if not _TABLE.fullmatch(table):
        raise ValueError(f"{table!r} is not a table's name: use small letters, digits and dashes")
    folder = MEASURED / table
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(row.encode()).hexdigest()[:16]}.json"
    half = path.with_suffix(f".{os.getpid()}")
    named = {name.replace("_", " "): value for name, value in columns.items()}
    half.write_text(json.dumps({"row": row, "columns": named}, ensure_ascii=False))
    half.replace(path)
