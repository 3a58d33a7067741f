"""Writes the tables of PAGES from what the tests measured: `make figures` after `make test`.

`--check` changes nothing and exits with 1 if a table of a page is not what docs/PAGE/TABLE.json says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.figures import MEASURED, ROOT

PAGES = (ROOT / "docs" / "reliability.md", ROOT / "docs" / "footprint.md")
_BLOCK = re.compile(r"(<!-- figures: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Table = Mapping[str, Any]
"""`{"first": heading of the first column, "rows": {row: {column: value}}}`."""


def merge(table: Table, measured: Mapping[str, Mapping[str, Any]]) -> Table:
    """`table` with the measured rows instead of its own of these names; rows stand in order of their names."""
    rows = {**table.get("rows", {}), **measured}
    return {"first": table.get("first", "case"), "rows": {name: rows[name] for name in sorted(rows)}}


def render(table: Table) -> str:
    """The table in Markdown; a row without a column shows a blank there."""
    rows: Mapping[str, Mapping[str, Any]] = table["rows"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    numeric = {c for c in columns if all(isinstance(row.get(c, 0), int | float) for row in rows.values())}
    lines = [
        [table["first"], *columns],
        ["---", *("---:" if column in numeric else "---" for column in columns)],
        *([_shown(name), *(_shown(row.get(column, "")) for column in columns)] for name, row in rows.items()),
    ]
    return "".join(f"|{'|'.join(cells)}|\n" for cells in lines)


def rewrite(page: str, tables: Mapping[str, Table]) -> str:
    """`page` with each of its figure blocks written anew from `tables`; a table without rows stays as it is."""

    def block(found: re.Match[str]) -> str:
        table = tables.get(found[2])
        return f"{found[1]}{render(table)}{found[3]}" if table else found[0]

    return _BLOCK.sub(block, page)


def measured_rows(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Rows that tests left in `folder`."""
    documents = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
    return {document["row"]: document["columns"] for document in documents}


def kept(folder: Path) -> dict[str, Table]:
    """The tables kept with the source, by name."""
    return {path.stem: json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))}


def update(pages: Sequence[Path], measured: Path) -> list[str]:
    """Merge and write; returns the measured tables' names. SystemExit: no page has a place for one."""
    found = sorted(path.name for path in measured.iterdir() if path.is_dir()) if measured.is_dir() else []
    for name in found:
        page = next((page for page in pages if f"<!-- figures: {name} -->" in page.read_text()), None)
        if page is None:
            names = " or ".join(page.name for page in pages)
            raise SystemExit(f"there is no place for the table {name}: add its two comment lines to {names}.")
        folder = page.with_suffix("")
        folder.mkdir(exist_ok=True)
        table = merge(kept(folder).get(name, {}), measured_rows(measured / name))
        (folder / f"{name}.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    for page in pages:
        page.write_text(current(page))
    return found


def current(page: Path) -> str:
    """What `page` must say by the figures kept for it."""
    return rewrite(page.read_text(), kept(page.with_suffix("")))


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value).replace("|", "\\|")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only look whether pages and kept tables agree")
    if parser.parse_args().check:
        sys.exit(0 if all(current(page) == page.read_text() for page in PAGES) else 1)
    found = update(PAGES, MEASURED)
    sys.stdout.write(f"docs: written from {', '.join(found) or 'no new figures: run make test'}\n")


if __name__ == "__main__":
    main()
