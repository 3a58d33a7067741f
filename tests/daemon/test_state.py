"""The table of states: docs show exactly it, every state can be reached and left, and kills are always resumable."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelsync_daemon.disk import states
from modelsync_daemon.disk.states import PREPARING, SETTLED, SWITCHING, TRANSITIONS, State

DOCS = Path(__file__).parents[2] / "docs"


def test_the_diagram_in_the_docs_is_the_table() -> None:
    text = (DOCS / "states.md").read_text()
    assert f"```mermaid\n{states.mermaid()}```" in text
    assert states.reasons() in text


def test_every_state_is_in_one_group() -> None:
    assert set(State) == SETTLED | PREPARING | SWITCHING
    assert not (SETTLED & PREPARING or PREPARING & SWITCHING or SETTLED & SWITCHING)


def test_every_state_can_be_reached_and_left() -> None:
    for each in State:
        assert any(before == each for before, _ in TRANSITIONS)
        assert any(after == each for _, after in TRANSITIONS)


@pytest.mark.parametrize("each", list(State))
def test_any_state_can_wait_or_begin_again(each: State) -> None:
    states.check(each, each)
    if each != State.WAITING:
        states.check(each, State.WAITING)
    states.check(State.WAITING, State.RESOLVING)


def test_nothing_is_activated_that_was_not_on_the_disk() -> None:
    before_probing = {before for before, after in TRANSITIONS if after == State.PROBING}
    assert before_probing == PREPARING | {State.ACTIVATING}
    assert (State.FETCHING, State.ACTIVATING) not in TRANSITIONS


def test_an_unknown_step_is_refused() -> None:
    with pytest.raises(states.TransitionError):
        states.check(State.IDLE, State.PROBATION)
