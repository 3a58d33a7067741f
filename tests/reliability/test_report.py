"""docs/reliability.md can't drift: its tables are the kept figures, and each test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.reliability import report
from tests.support import figures

ROW = "a | b"


def test_figures_of_parallel_tests_come_together_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MEASURED", tmp_path / "measured")
    page = tmp_path / "page.md"
    page.write_text("# Title\n<!-- figures: lines -->\nold\n<!-- end -->\nrest\n")
    figures.record("lines", ROW, wasted_bytes=12345, end="old")
    figures.record("lines", ROW, wasted_bytes=1234, end="new")
    assert report.update(page, tmp_path / "measured") == ["lines"]
    figures.record("lines", "z", wasted_bytes=0, end="new", note="x")
    report.update(page, tmp_path / "measured")
    assert page.read_text() == (
        "# Title\n<!-- figures: lines -->\n"
        "|case|wasted bytes|end|note|\n|---|---:|---|---|\n|a \\| b|1,234|new||\n|z|0|new|x|\n"
        "<!-- end -->\nrest\n"
    )
    assert report.rewrite(page.read_text(), report.kept(page.with_suffix(""))) == page.read_text()


def test_a_table_without_a_place_on_the_page_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MEASURED", tmp_path / "measured")
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    figures.record("lines", ROW, end="new")
    with pytest.raises(SystemExit, match="lines"):
        report.update(page, tmp_path / "measured")


def test_the_pages_tables_are_the_kept_figures() -> None:
    page = report.PAGE.read_text()
    assert report.rewrite(page, report.kept(report.PAGE.with_suffix(""))) == page, "run `make reliability`"


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"(tests/[\w/.]+\.py)(?:::(\w+))?", report.PAGE.read_text())
    assert named
    for file, test in named:
        path = figures.ROOT / file
        assert path.is_file(), file
        assert not test or re.search(rf"^(async )?def {test}\(", path.read_text(), re.MULTILINE), f"{file}::{test}"
