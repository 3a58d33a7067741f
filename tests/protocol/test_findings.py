"""Findings and near names: what a person is told, and the exit code that follows."""

from __future__ import annotations

import pytest

from modelsync_protocol import findings, near_names
from modelsync_protocol.findings import Finding, Level, good, problem, warning


def test_the_first_problem_decides_the_exit_code_and_warnings_do_not() -> None:
    assert findings.exit_code([good("a", "fine."), warning("b", "soon.", "mend")]) == 0
    found = [warning("a", "soon."), problem("b", "line.", "mend it", 4), problem("c", "disk.", None, 5)]
    assert findings.exit_code(found) == 4
    assert findings.document(found)["ok"] is False
    assert findings.lines(found)[1:3] == ["problem  b            line.", " " * 22 + "mend: mend it"]


def test_a_problem_without_a_code_is_no_finding() -> None:
    with pytest.raises(ValueError, match="exit code"):
        Finding("a", Level.PROBLEM, "text")
    with pytest.raises(ValueError, match="exit code"):
        Finding("a", Level.OK, "text", code=3)


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("anomly", ["anomaly", "digits"], " (did you mean 'anomaly'?)"),
        ("ANOMALY", ["anomaly"], " (did you mean 'anomaly'?)"),
        ("zzz", ["anomaly"], ""),
        ("x", [], ""),
    ],
)
def test_the_nearest_name_is_hinted_at(word: str, known: list[str], said: str) -> None:
    assert near_names.hint(word, known) == said


def test_the_nearest_version_is_hinted_at_the_newer_of_two() -> None:
    assert near_names.near_version(9, [1, 2, 4]) == " (the nearest is 4)"
    assert near_names.near_version(3, [2, 4]) == " (the nearest is 4)"
    assert near_names.near_version(3, []) == ""
