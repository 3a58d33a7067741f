"""How far a desired property walks inside the daemon until a worker is asked: docs/architecture.md draws that way."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from modelsync_daemon.control.azure import AzureControlPlane
from modelsync_daemon.control.plane import Twin
from modelsync_daemon.reconcile.update import Updates
from modelsync_protocol.twin import Wish
from tests.daemon.fakes import NAME, device

ROOM = f"{Path('daemon') / 'modelsync_daemon'}/"


def carries(value: object) -> bool:
    """Whether a value is, or holds, what is desired of NAME."""
    if isinstance(value, Twin):
        return True
    if isinstance(value, Mapping):
        section = value.get("modelsync")
        return isinstance(section, Mapping) and NAME in section.get("models", {})
    return isinstance(value, Wish) and value.version == 1


async def test_a_desired_property_passes_at_most_six_modules_before_the_worker_starts(tmp_path: Path) -> None:
    passed: list[str] = []
    asked: list[str] = []

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if asked or event != "call" or ROOM not in frame.f_code.co_filename:
            return
        for holder in (frame.f_back, frame):  # who passes it on, and who gets it
            if holder and ROOM in holder.f_code.co_filename and any(map(carries, holder.f_locals.values())):
                passed.append(holder.f_code.co_filename.partition(ROOM)[2])
        if frame.f_code is Updates._prepare.__code__:
            asked.append("the worker")

    async with device(tmp_path) as pi:
        await pi.until(lambda: pi.plane.reads > 0, "the empty twin")
        sys.setprofile(watch)
        try:
            pi.wish(1)
            await pi.serves(1)
        finally:
            sys.setprofile(None)
    assert asked, "the worker was never asked"
    way = list(dict.fromkeys(passed))
    plane = sys.modules[AzureControlPlane.__module__].__file__ or ""  # the port's fake stands for it in this run
    assert [plane.partition(ROOM)[2], *way] == [
        "control/azure.py",
        "control/hub_link.py",
        "reconcile/reconciler.py",
        "reconcile/desired.py",
        "reconcile/decision.py",
        "reconcile/update.py",
    ]
