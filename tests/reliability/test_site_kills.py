"""The kill matrix of a site: a device that takes its update from a neighbour is killed in every state, and so is the
neighbour in each thing that it does; a verified model serves, the target is reached, the uplink pays for nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.spool import Entry
from modelsync_daemon.disk.states import State
from modelsync_daemon.site import server
from modelsync_daemon.site.server import SiteServer
from modelsync_daemon.transfer.site_access import SiteAccess
from tests.daemon.fakes import NAME
from tests.reliability.matrix import PAYLOADS, forked, live, neighbour_cases, run_case
from tests.reliability.promises import check_no_garbage, check_serves, check_settled
from tests.reliability.world import World
from tests.support.addresses import free_port
from tests.support.neighbours import Neighbour
from tests.support.waiting import wait_until

QUICK = {(State.FETCHING, "kill", "in"), (State.ASSEMBLING, "kill", "in")}
STAGES = {
    "asked who fetches": (SiteServer, "_question", 1),
    "asked for an object": (server, "send_range", 1),
    "before its first byte": (Entry, "read", 1),
    "in the middle": (Entry, "read", 5),
}
"""A function of the neighbour's, and at which of its calls it dies."""


def _marked(values: list[Any], quick: set[Any]) -> list[Any]:
    return [pytest.param(value, marks=[] if value in quick else [pytest.mark.long], id=_id(value)) for value in values]


def _id(value: Any) -> str:
    return (value if isinstance(value, str) else " ".join(map(str, value))).replace(" ", "_")


@pytest.fixture(scope="module")
def full(big_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A neighbour's data directory: it has fetched the update."""
    root = tmp_path_factory.mktemp("neighbour") / "data"
    big_world.device(root)
    neighbour = Neighbour(root, big_world.shop.trust, free_port(), ("127.0.0.1:1",))
    neighbour.spool.create()
    asyncio.run(neighbour.pull(NAME, big_world.origin.url, 3))
    return root


@contextlib.contextmanager
def serving(full: Path, world: World, stage: str | None = None) -> Iterator[str]:
    """A process that is the neighbour; its address. At `stage` it kills itself."""
    port = free_port()
    pid = os.fork()
    if pid == 0:
        try:
            if stage is not None:
                _arm(*STAGES[stage])
            asyncio.run(_serve(Neighbour(full, world.shop.trust, port, ())))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)
    try:
        wait_until(lambda: _listens(port), "the neighbour")
        yield f"127.0.0.1:{port}"
        if stage is not None:
            assert os.waitpid(pid, os.WNOHANG)[0] == pid, "the neighbour was to die"
            pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


async def _serve(neighbour: Neighbour) -> None:
    async with neighbour:
        await asyncio.Event().wait()


def _arm(owner: Any, name: str, call: int) -> None:
    original, calls = getattr(owner, name), 0

    def dying(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **more)

    setattr(owner, name, dying)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def access(data: DataDir, neighbour: str) -> SiteAccess:
    """A site of two, of which this device serves nobody."""
    return SiteAccess("test", f"127.0.0.1:{free_port()}", (neighbour,), str(data.root / "site"), 1 << 30)


@pytest.mark.parametrize("case", _marked(neighbour_cases(), QUICK))
def test_a_fault_while_a_neighbour_gives_the_update_loses_nothing(
    big_world: World, full: Path, tmp_path: Path, case: tuple[State, str, str]
) -> None:
    data = big_world.device(tmp_path / "data")
    with serving(full, big_world) as neighbour:
        run_case(big_world, data, *case, site=access(data, neighbour))


@pytest.mark.parametrize("stage", _marked(list(STAGES), {"in the middle"}))
def test_a_neighbour_that_dies_costs_its_bytes_once(big_world: World, full: Path, tmp_path: Path, stage: str) -> None:
    data = big_world.device(tmp_path / "data")
    before = big_world.origin.object_bytes()
    with serving(full, big_world, stage) as neighbour:
        site = access(data, neighbour)
        assert forked(lambda: asyncio.run(live(big_world, data, "update", None, site=site))) == 0
    pointer = check_serves(data, NAME, load=True)
    assert pointer.version == 3
    check_settled(data, NAME)
    check_no_garbage(data)
    assert big_world.origin.object_bytes() - before <= big_world.update_bytes + PAYLOADS
