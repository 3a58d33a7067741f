"""Worlds are costly to publish: each is made once per test run, for all of its processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.world import KIB, World, world


@pytest.fixture(scope="session")
def shared_root(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def big_world(shared_root: Path) -> Iterator[World]:
    """Its update has several payloads, so that one that is fetched twice can be told from all."""
    with world(shared_root / "big-world", 1200 * KIB) as made:
        yield made


@pytest.fixture(scope="session")
def small_world(shared_root: Path) -> Iterator[World]:
    """Its update is one payload: quick to take apart and to replay."""
    with world(shared_root / "small-world", 40 * KIB) as made:
        yield made
