"""A daemon that is killed in any state goes on where it stopped, with the version that was serving untouched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.activate.activation import Activation, Patience
from modelsync_daemon.activate.inference_processes import Processes
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.pointer import Pointer
from modelsync_daemon.disk.states import State
from modelsync_daemon.reconcile.desired import DesiredState
from modelsync_protocol.errors import UnreachableError
from tests.daemon.fakes import NAME, Inference, MemoryControlPlane, device, install, reference


class Killed(BaseException):
    """Stands for the moment of a kill: nothing after it happens, not even error handling of Exception."""


class DyingDatabase(Database):
    """Dies before or after it persists the step to a given state."""

    dies: tuple[State, bool] | None = None

    def transition(self, name: str, state: State | str, **details: Any):  # type: ignore[no-untyped-def]
        """As Database.transition, with the kill."""
        if self.dies == (State(state), False):
            raise Killed
        row = super().transition(name, state, **details)
        if self.dies == (State(state), True):
            raise Killed
        return row


class DyingDataDir(DataDir):
    """Dies before or after it replaces the pointer."""

    dies: bool | None = None

    def write_current(self, pointer: Pointer) -> None:
        """As DataDir.write_current, with the kill."""
        if self.dies is False:
            raise Killed
        super().write_current(pointer)
        if self.dies is True:
            raise Killed


def _on_version_2(root: Path) -> tuple[DyingDataDir, DyingDatabase, Activation]:
    data = DyingDataDir(root)
    data.create()
    database = DyingDatabase(data.state_db)
    activation = Activation(data, database, Processes(), Patience(settle=0.0))
    for version in (1, 2):
        database.transition(NAME, State.RESOLVING)
        activation.point_at_once(NAME, install(data, version))
    return data, database, activation


def _desire(version: int) -> MemoryControlPlane:
    plane = MemoryControlPlane()
    plane.set_desired({"modelsync": {"origin": "http://127.0.0.1:9", "models": {NAME: {"version": version}}}})
    return plane


KILLS: list[tuple[str, Callable[[DyingDataDir, DyingDatabase], None]]] = [
    *(
        (
            f"{'after' if after else 'before'} {state}",
            lambda data, database, state=state, after=after: setattr(database, "dies", (state, after)),
        )
        for state in (State.PROBING, State.ACTIVATING, State.ACTIVE)
        for after in (False, True)
    ),
    ("before the pointer", lambda data, database: setattr(data, "dies", False)),
    ("after the pointer", lambda data, database: setattr(data, "dies", True)),
]


@pytest.mark.parametrize(("moment", "arm"), KILLS, ids=[moment for moment, _ in KILLS])
async def test_an_activation_survives_a_kill(
    tmp_path: Path, moment: str, arm: Callable[[DyingDataDir, DyingDatabase], None]
) -> None:
    data, database, activation = _on_version_2(tmp_path)
    made = install(data, 3)
    database.transition(NAME, State.RESOLVING)
    arm(data, database)
    with pytest.raises(Killed):
        await activation.install(NAME, made)
    database.close()
    between = DataDir(tmp_path).read_pointer(NAME)
    assert between is not None and between.version in (2, 3), "there is always something to serve"
    async with device(tmp_path, _desire(3)) as pi:
        await pi.serves(3)
        current = pi.current()
        assert current and current.previous == reference(2) and current.generation > 2
        assert not (tmp_path / "models" / NAME / "candidate.json").exists()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("where", [State.ACTIVATING, State.ROLLED_BACK, None])
async def test_a_rollback_survives_a_kill(tmp_path: Path, where: State | None, after: bool) -> None:
    data, database, activation = _on_version_2(tmp_path)
    DesiredState(database).accept(_desire(2).desired)
    if where is None:
        data.dies = after
    else:
        database.dies = (where, after)
    with pytest.raises(Killed):
        activation.roll_back(NAME, 'rollback:[2, false, ""]')
    database.close()
    async with device(tmp_path, _desire(2)) as pi:
        if where is State.ACTIVATING and not after:  # nothing had been persisted: the rollback was never asked for
            await pi.serves(2)
            return
        await pi.is_in("rolled back")
        await pi.until(lambda: pi.plane.reads > 0)
        current = pi.current()
        assert current and current.version == 1 and current.previous == reference(2)
        assert pi.row().hold


@pytest.mark.parametrize("state", ["resolving", "planning", "fetching", "assembling"])
async def test_a_fetch_starts_again_after_a_kill(tmp_path: Path, state: str) -> None:
    plane = _desire(2)
    async with device(tmp_path, plane) as pi:
        await pi.serves(2)
        pi.preparer.block.clear()
        pi.wish(3)
        await pi.is_in("fetching")
    database = Database(DataDir(tmp_path).state_db)
    database.connection.execute("UPDATE models SET state = ?", (state,))
    database.close()
    async with device(tmp_path, plane) as pi:
        await pi.serves(3)
        assert [job.version for job in pi.preparer.jobs] == [3]


async def test_left_over_versions_go_at_the_next_start(tmp_path: Path) -> None:
    plane = _desire(1)
    async with device(tmp_path, plane) as pi:
        await pi.serves(1)
        install(pi.data, 7)
    async with device(tmp_path, plane) as pi:
        await pi.until(lambda: [item.version for item in pi.data.installed(NAME)] == [1])


async def test_probation_goes_on_after_a_kill(tmp_path: Path) -> None:
    plane = _desire(1)
    async with device(tmp_path, plane) as pi:
        await pi.serves(1)
    async with device(tmp_path, plane, Patience(probe=5, probation=60, settle=0)) as pi:
        Inference(pi).start()
        pi.wish(2)
        await pi.is_in("probation")
    async with device(tmp_path, plane, Patience(probe=5, probation=0.1, settle=0)) as pi:
        await pi.serves(2)
        assert not pi.preparer.jobs


async def test_a_device_that_restarts_again_and_again_on_probation_rolls_back(tmp_path: Path) -> None:
    plane = _desire(1)
    patience = Patience(probe=5, probation=60, settle=0)
    async with device(tmp_path, plane, patience) as pi:
        await pi.serves(1)
        Inference(pi).start()
        pi.wish(2)
        await pi.is_in("probation")
    for starts in (1, 2):
        async with device(tmp_path, plane, patience) as pi:
            await pi.until(lambda starts=starts: pi.row().starts == starts)  # type: ignore[misc]
            assert pi.row().state == "probation"
    async with device(tmp_path, plane, patience) as pi:
        await pi.is_in("rolled back", "serving")
        current = pi.current()
        assert current and current.version == 1
        assert "restarted again" in pi.row().error_text


async def test_a_candidate_waits_for_processes_that_come_back_after_a_restart(tmp_path: Path) -> None:
    plane = _desire(1)
    async with device(tmp_path, plane) as pi:
        Inference(pi).start()
        await pi.serves(1)
        pi.preparer.block.clear()
        pi.wish(2)
        await pi.is_in("fetching")
    async with device(tmp_path, plane, Patience(probe=5, probation=0.01, settle=30)) as pi:
        await pi.is_in("probing")
        process = Inference(pi)
        process.refuses = {2}
        process.start()
        await pi.is_in("quarantined", "probe")
        current = pi.current()
        assert current and current.version == 1


async def test_a_device_that_starts_offline_knows_its_wishes(tmp_path: Path) -> None:
    plane = _desire(2)
    async with device(tmp_path, plane) as pi:
        await pi.serves(2)
        pi.preparer.block.clear()
        pi.wish(3)
        await pi.is_in("fetching")
    offline = MemoryControlPlane()
    offline.fail_connects = [UnreachableError("no line.") for _ in range(10_000)]
    async with device(tmp_path, offline) as pi:
        await pi.serves(3)
        assert offline.reads == 0
