"""Whatever state an error or a SIGKILL strikes in, a verified model serves, the target is reached and nothing stays.

Every state of the daemon's table x {error, SIGKILL} x {before, in, after} what the state does (matrix.py).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modelsync_daemon.disk.states import State
from modelsync_server.media.export import export
from modelsync_server.media.selection import Wanted
from modelsync_server.store import open_store
from tests.daemon.fakes import NAME
from tests.reliability.matrix import EFFECTS, cases, medium_cases, run_case
from tests.reliability.world import World


def test_every_state_of_the_table_has_its_effect_in_the_matrix() -> None:
    assert set(EFFECTS) == set(State)
    assert len(cases()) == 6 * len(State)


@pytest.mark.parametrize(("state", "kind", "moment"), cases(), ids=lambda value: str(value).replace(" ", "_"))
def test_a_fault_in_any_state_loses_nothing(
    big_world: World, tmp_path: Path, state: State, kind: str, moment: str
) -> None:
    run_case(big_world, big_world.device(tmp_path / "data"), state, kind, moment)


@pytest.fixture(scope="module")
def medium(big_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stick with what the device lacks."""
    out = tmp_path_factory.mktemp("medium") / "stick"
    asyncio.run(export(open_store(str(big_world.shop.path)), out, Wanted(models=[(NAME, None)], bases=[2])))
    return out


@pytest.mark.parametrize(("state", "kind", "moment"), medium_cases(), ids=lambda value: str(value).replace(" ", "_"))
def test_a_fault_while_a_medium_is_imported_loses_nothing_and_fetches_nothing(
    big_world: World, medium: Path, tmp_path: Path, state: State, kind: str, moment: str
) -> None:
    run_case(big_world, big_world.device(tmp_path / "data"), state, kind, moment, medium)
