"""The pages that tests write can't drift: their tables are the kept figures, and each test that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import figures, pages

ROW = "a | b"


def test_figures_of_parallel_tests_come_together_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MEASURED", tmp_path / "measured")
    page = tmp_path / "page.md"
    page.write_text("# Title\n<!-- figures: lines -->\nold\n<!-- end -->\nrest\n")
    figures.record("lines", ROW, wasted_bytes=12345, end="old")
    figures.record("lines", ROW, wasted_bytes=1234, end="new")
    assert pages.update([page], tmp_path / "measured") == ["lines"]
    figures.record("lines", "z", wasted_bytes=0, end="new", note="x")
    pages.update([page], tmp_path / "measured")
    assert page.read_text() == (
        "# Title\n<!-- figures: lines -->\n"
        "|case|wasted bytes|end|note|\n|---|---:|---|---|\n|a \\| b|1,234|new||\n|z|0|new|x|\n"
        "<!-- end -->\nrest\n"
    )
    assert pages.current(page) == page.read_text()


def test_a_table_without_a_place_on_the_page_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MEASURED", tmp_path / "measured")
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    figures.record("lines", ROW, end="new")
    with pytest.raises(SystemExit, match="lines"):
        pages.update([page], tmp_path / "measured")


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_the_pages_tables_are_the_kept_figures(page: Path) -> None:
    assert pages.current(page) == page.read_text(), "run `make figures`"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_every_test_that_the_page_names_exists(page: Path) -> None:
    named = re.findall(r"(tests/[\w/.]+\.py)(?:::(\w+))?", page.read_text())
    assert named
    for file, test in named:
        path = figures.ROOT / file
        assert path.is_file(), file
        assert not test or re.search(rf"^(async )?def {test}\(", path.read_text(), re.MULTILINE), f"{file}::{test}"
