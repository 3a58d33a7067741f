"""A pytest plugin that takes one mechanism away: `-p tests.reliability.removal`, its name in the environment."""

from __future__ import annotations

import os

VARIABLE = "MODELSYNC_TEST_WITHOUT"


def pytest_configure() -> None:
    """Before any test runs."""
    from tests.reliability.mechanisms import MECHANISMS

    (mechanism,) = (each for each in MECHANISMS if each.name == os.environ[VARIABLE])
    assert mechanism.remove is not None
    mechanism.remove()
