"""The port: calls that lean on nothing but their arguments, and what runs a list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

ATTEMPTS = 3
"""So often a call is begun before it is given up: once, and again on other workers."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function of an importable module, as `package.module:name`, and its keyword arguments (JSON values).

    It must be repeatable, for its worker may die after it did its work; and give the same whichever worker runs it.
    It may be a coroutine function. What it raises of modelsync_protocol.errors is raised where the engine runs.
    `title` names it in sentences for people.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    title: str = "a task"


Finished = Callable[[int, Any], None]
"""`finished(number of the call, its answer)`, as each ends, in the event loop's thread."""


class Engine(Protocol):
    """Runs calls on workers, each of which may die at any time. For one event loop; used by one caller at a time."""

    shares_disk: bool
    """Whether workers see this machine's files under their paths."""

    retried: int
    """How many calls were begun again since a worker died."""

    async def run(self, calls: Sequence[Call], finished: Finished = lambda number, answer: None) -> list[Any]:
        """The answers, in the calls' order. The first error ends the run.

        Raises what a call raised; LocalError for a call that killed ATTEMPTS workers; UnreachableError if there is no
        worker to be had.
        """

    def threads(self, calls: int) -> int | None:
        """How many threads each of so many calls may use; None: the worker knows better."""

    async def close(self) -> None:
        """End what was started here; it may be called twice. A cluster that was joined goes on."""
