"""A run that left tests out is told from one in which tests failed, so that `make test-again` can't pass for the whole.

pytest-xdist ends with 1, as if tests had failed, when its workers found different tests and it ran none of them.
"""

from __future__ import annotations

from typing import Any

import pytest

LEFT_OUT = 3
"""The exit code, which is pytest's own for what is wrong with itself."""


class WholeRun:
    """Counts at the side of pytest-xdist that hands the tests out."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test of any worker."""
        self._told.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Before the exit code is given."""
        runner: Any = session.config.pluginmanager.get_plugin("dsession")
        if session.exitstatus != pytest.ExitCode.TESTS_FAILED or session.shouldstop or session.shouldfail:
            return
        found = runner.sched and runner.sched.collection
        if found is None or set(found) - self._told:
            left = f"{len(set(found) - self._told)} tests" if found else "all tests"
            session.config.get_terminal_writer().line(f"NOT RUN: {left}, whatever failed", red=True)
            session.exitstatus = LEFT_OUT


def pytest_configure(config: pytest.Config) -> None:
    """Where tests are handed out, and nowhere else."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(WholeRun())
