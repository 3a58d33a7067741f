"""Fixtures for the whole suite: what is costly to start is started once per test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.azurite import azurite


@pytest.fixture(scope="session")
def azurite_service() -> Iterator[str]:
    """The connection string of a blob service in memory."""
    with azurite() as text:
        yield text
