"""Looks whether what the settings say of an application can work here, for the doctor. It tells nobody anything."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from modelsync_daemon.activate.consumer import NotServing
from modelsync_daemon.consumers import processes, tools
from modelsync_daemon.consumers.actions import Action, CommandAction, DbusAction, HttpAction, SignalAction, UnitAction
from modelsync_daemon.consumers.checks import Check, CommandCheck, HttpCheck, ProcessCheck, SocketCheck, UnitCheck
from modelsync_daemon.consumers.consumer import Plan

_SECONDS = 10.0


async def faults(plan: Plan) -> AsyncIterator[tuple[bool, str, str]]:
    """What stands in the way: whether it has to be mended before anything works (or the application may just not run
    now), a sentence, and a command that helps."""
    seen: set[str] = set()
    for part in (plan.action, *((plan.check,) if plan.check else ()), *plan.ready):
        async for found in _of(part):
            if found[1] not in seen:
                seen.add(found[1])
                yield found


async def _of(part: Action | Check) -> AsyncIterator[tuple[bool, str, str]]:
    if isinstance(part, CommandAction | CommandCheck):
        program = part.argv[0]
        if not Path(program).is_file() or not os.access(program, os.X_OK):
            yield True, f"{program} is not there, or is no program that may be run.", f"ls -l {program}"
    elif isinstance(part, UnitAction | UnitCheck) or (isinstance(part, SignalAction) and part.unit):
        async for found in _unit(part.unit or "", isinstance(part, UnitAction) and part.verb == "reload"):
            yield found
    elif isinstance(part, HttpAction | HttpCheck):
        for request in part.requests if isinstance(part, HttpAction) else (part.request,):
            async for found in _answers([request.address], request.shown):
                yield found
    elif isinstance(part, SocketCheck):
        async for found in _answers([part.address], part.address):
            yield found
    elif isinstance(part, SignalAction | ProcessCheck) and part.pidfile is not None:
        try:
            processes.of(part.pidfile, part.program)
        except NotServing as error:
            yield False, str(error), f"cat {part.pidfile}"
    elif isinstance(part, DbusAction):
        try:
            await tools.bus_name(part.destination, _SECONDS)
        except NotServing as error:
            yield False, f"nobody is {part.destination} on the system bus: {error}", "busctl list"


async def _unit(unit: str, reload: bool) -> AsyncIterator[tuple[bool, str, str]]:
    try:
        found = await tools.show(unit, ("LoadState", "ActiveState", "CanReload"), _SECONDS)
    except NotServing as error:
        yield True, f"systemd can't be asked about {unit}: {error}", f"systemctl show {unit}"
        return
    if found.get("LoadState") != "loaded":
        yield True, f"there is no unit {unit}.", f"systemctl status {unit}"
    elif reload and found.get("CanReload") == "no":
        yield True, f"{unit} can't be reloaded: it has no ExecReload=; restart it instead.", f"systemctl cat {unit}"
    elif found.get("ActiveState") not in tools.RUNNING:
        yield False, f"{unit} is {found.get('ActiveState')}.", f"systemctl status {unit}"


async def _answers(addresses: Sequence[str], shown: str) -> AsyncIterator[tuple[bool, str, str]]:
    for address in addresses:
        try:
            await SocketCheck(address).look({}, _SECONDS)
        except NotServing as error:
            yield False, f"{shown}: {error}", "ss --listening --processes"
