"""When a model went to which state, since the daemon's start: what a traced update reports. In memory only."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelsync_daemon.disk.states import State

_MOST = 32
"""Steps of one update; one that waits again and again shows its last ones."""


class Steps:
    """By model, the steps of its last update."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._steps: dict[str, list[tuple[str, int]]] = {}

    def step(self, name: str, state: State) -> None:
        """The model goes to `state` now; `resolving` begins anew, unless it was waiting."""
        steps = self._steps.setdefault(name, [])
        if state is State.RESOLVING and steps and steps[-1][0] != State.WAITING:
            steps.clear()
        steps.append((state.value, int(self._clock() * 1000)))
        del steps[:-_MOST]

    def of(self, name: str) -> list[tuple[str, int]]:
        """(state, milliseconds since the epoch), oldest first."""
        return list(self._steps.get(name, ()))
