"""docs/raspberry-pi.md's troubleshooting quotes the product: each sentence stands in its sources as it is quoted."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "raspberry-pi.md"
SOURCES = ("daemon", "inference", "protocol")
SCRIPTS = (ROOT / "deploy" / "image" / "start",)


def _texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a module, with … for each value that is put into it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sdr]|%\.\df", "…", node.value)


def _said() -> str:
    texts = [
        text
        for folder in SOURCES
        for path in (ROOT / folder).rglob("*.py")
        for text in _texts(ast.parse(path.read_text()))
    ]
    return "\n".join([*texts, *(re.sub(r'" \\\n\s*"', " ", path.read_text()) for path in SCRIPTS if path.exists())])


def test_every_quoted_sentence_is_the_products_own() -> None:
    table = PAGE.read_text().partition("| it says |")[2].partition("\n\n")[0]
    quoted = [sentence for row in table.splitlines()[2:] for sentence in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(quoted) > 10
    said = _said()
    assert [sentence for sentence in quoted if sentence not in said] == []
    assert "free some space on Mars." not in said, "else the test above would prove nothing"
