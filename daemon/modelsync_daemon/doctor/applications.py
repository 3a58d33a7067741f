"""The doctor's look at the applications that are told of versions: is what the settings name there, does it answer?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from modelsync_daemon.config import Settings
from modelsync_protocol.errors import UsageError
from modelsync_protocol.findings import Finding, good, problem, warning

_LOCAL = 5


def examine(settings: Settings) -> Iterator[Finding]:
    """Nothing is told to anybody: a unit's state is read, a connection is made and closed."""
    if settings.models is None and settings.consumers is None:
        return
    from modelsync_daemon.consumers import configured, inspection  # as in service.py

    try:
        found = configured.of(settings)
    except UsageError as error:
        yield problem("consumers", str(error), "edit the settings", error.exit_code)
        return
    for name, plan in found.plans.items():
        label = name if name.startswith("models.") else f"consumers.{name}"
        faults = asyncio.run(_all(inspection.faults(plan)))
        for grave, text, mend in faults:
            shown = f"[{label}] {text}"
            yield problem("consumers", shown, mend, _LOCAL) if grave else warning("consumers", shown, mend)
        if not faults:
            yield good("consumers", f"[{label}] can be told of versions.")


async def _all(faults: AsyncIterator[tuple[bool, str, str]]) -> list[tuple[bool, str, str]]:
    return [fault async for fault in faults]
