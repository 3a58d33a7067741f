"""Daemon and inference server confine with the same code; neither imports the other's, so there are two copies."""

from __future__ import annotations

import pytest

from tests.rooms import package


@pytest.mark.parametrize("name", ["landlock.py", "syscall_filter.py", "inheritance.py"])
def test_a_mend_of_one_copy_is_a_mend_of_both(name: str) -> None:
    ours, theirs = ((package(each) / "confinement" / name).read_text() for each in ("daemon", "inference"))
    assert ours == theirs
