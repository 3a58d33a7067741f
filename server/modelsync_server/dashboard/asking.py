"""What all pages are made from: hub, store, kept answers, prices, and the questions of one page. No HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from modelsync_protocol.errors import ModelsyncError
from modelsync_server.dashboard import counting, listing
from modelsync_server.dashboard.acts import Audit
from modelsync_server.dashboard.answers import Answer, Answers
from modelsync_server.dashboard.counting import Groups
from modelsync_server.dashboard.history import Seen
from modelsync_server.dashboard.tables import Table, View
from modelsync_server.library.async_store import AsyncStore
from modelsync_server.rollout import reading
from modelsync_server.rollout.port import FleetHub, Json
from modelsync_server.rollout.reading import Overview
from modelsync_server.rollout.target import Kind, Target

GIGABYTE = 1_000_000_000
SLOWLY = 10.0
"""So many times as long an answer is kept that changes slowly or costs many queries."""

T = TypeVar("T")


class DeviceHub(FleetHub, Protocol):
    """What the page needs of a hub beside what rollouts do: a twin by its id, which costs no query."""

    async def twin(self, device: str, module: str | None = None) -> Json:
        """The whole twin; UsageError for a device that there is not."""
        ...


@dataclass(slots=True)
class Sources:
    """Where pages come from. `price_per_gb` is in `currency`; `image_bytes`: what an image pull would have cost.

    `modules`: names under which modelsync runs as a module on devices, beside those that rollouts are for.
    """

    hub: DeviceHub
    store: AsyncStore | None
    answers: Answers
    price_per_gb: float | None = None
    currency: str = "EUR"
    image_bytes: int = 60_000_000
    modules: Sequence[str] = ()
    audit: Audit | None = None
    seen: Seen = field(default_factory=Seen)

    def money(self, size: int | None) -> float | None:
        """What so many bytes cost."""
        return None if size is None or self.price_per_gb is None else size / GIGABYTE * self.price_per_gb


class Asked:
    """Questions of one page: the age of the oldest answer, and what could not be asked again."""

    def __init__(self, views: Sources) -> None:
        self.views = views
        self._age = 0.0
        self._troubles: dict[str, None] = {}

    async def of(self, key: tuple[Any, ...], ask: Callable[[], Awaitable[T]], times: float = 1.0) -> T:
        """The answer to one question; see Answers."""
        answer: Answer[T] = await self.views.answers.get(key, ask, times)
        self._age = max(self._age, answer.age)
        if answer.trouble:
            self._troubles[answer.trouble] = None
        return answer.value

    def view(self, template: str, title: str, data: Mapping[str, Any], tables: tuple[Table, ...] = (),
             following: str | None = None) -> View:  # fmt: skip
        return View(template, title, data, tables, self._age, tuple(self._troubles), following)

    async def overview(self) -> Overview:
        """All rollouts; their bytes are asked ring by ring (`spent`)."""
        return await self.of(("overview",), lambda: reading.overview(self.views.hub))

    async def names(self, overview: Overview) -> list[str]:
        """Models by name: the store's (without one: those of the first devices), and those that rollouts are about."""
        known = {each.record.model for each in overview.rollouts} | {wish.model for wish in overview.wishes}
        if self.views.store is not None:
            known |= set(await self.of(("names",), self.views.store.names))
        else:
            known |= await self.of(("sample",), lambda: listing.models_of_some(self.views.hub), SLOWLY)
        return sorted(known)

    def modules(self, overview: Overview) -> list[str]:
        """Names of modules that models are on."""
        targets = [each.record.target for each in overview.rollouts] + [wish.target for wish in overview.wishes]
        return sorted({each.module for each in targets if each.module} | set(self.views.modules))

    async def grouped(self, model: str, module: str = "") -> Groups:
        """How a model's devices, or modules of a name, divide."""
        target = Target(Kind.MODULE, module) if module else Target()
        hub = self.views.hub
        return await self.of(("grouped", model, module), lambda: counting.grouped(hub, model, target, hub.now()))


def broken(error: ModelsyncError, status: int) -> View:
    """What is shown where nothing can be: the sentence."""
    title = {404: "Not found", 403: "Not allowed"}.get(status, "Not now")
    return View("trouble.html", title, {"text": str(error)}, status=status)
