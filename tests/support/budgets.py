"""Keeps a measured figure beside its budget for docs/footprint.md, and fails where the budget is exceeded."""

from __future__ import annotations

import platform

from tests.support.figures import record


def within(what: str, measured: float, budget: float, unit: str, where: str = "") -> None:
    """`measured` must be at most `budget`, both in `unit`. `where`: on which machine, if not on this one.

    The figure is kept either way, so that the page never shows a better one from an earlier run.
    """
    kept = int(measured) if measured == int(measured) else round(measured, 2)
    over = {} if measured <= budget else {"missed": "yes"}
    where = where or f"{platform.machine()}, CPython {platform.python_version()}"
    record("footprint", what, measured=kept, budget=budget, unit=unit, where=where, **over)
    assert measured <= budget, f"{what}: {measured} {unit}, the budget is {budget}"
