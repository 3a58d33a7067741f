"""Publisher, daemon and inference server confine with the same code; none imports another's, so there are copies."""

from __future__ import annotations

import pytest

from tests.rooms import package


@pytest.mark.parametrize("name", ["landlock.py", "syscall_filter.py", "inheritance.py"])
def test_a_mend_of_one_copy_is_a_mend_of_all(name: str) -> None:
    places = [package("daemon") / "confinement", package("inference") / "confinement"]
    if name != "inheritance.py":
        places.append(package("server") / "examination")
    assert len({(place / name).read_text() for place in places}) == 1
