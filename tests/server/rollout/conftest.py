"""A hub, a store with three versions of a model, and a fleet of puppets at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelsync_server.hub.hub import Hub, HubAddress
from modelsync_server.iothub.service_client import ServiceClient
from modelsync_server.publish import price
from modelsync_server.rollout import planning, reading, running, starting
from modelsync_server.rollout.gate import Gate
from modelsync_server.rollout.port import FleetHub
from modelsync_server.rollout.record import Record
from modelsync_server.rollout.rings import parse_options
from modelsync_server.rollout.target import Target
from modelsync_server.store import open_store
from modelsync_server.store.published import read_manifest
from modelsync_server.trust import read_catalogue
from tests.support.addresses import loopback_address
from tests.support.puppet_fleet import Behaviour, Puppets, obedient
from tests.support.shop import Shop

MODEL = "anomaly"
QUICK = Gate(active=1.0, failures=0.02, soak=0.0, wait=3600.0)


@dataclass
class World:
    """Everything a rollout has to do with."""

    hub: Hub
    client: ServiceClient
    shop: Shop
    puppets: Puppets

    @property
    def store(self) -> str:
        return str(self.shop.path)

    async def plan(
        self, rings: Sequence[str], version: int = 3, gate: Gate = QUICK, target: Target | None = None
    ) -> planning.RolloutPlan:
        return await planning.plan(
            open_store(self.store), self.client, MODEL, version, parse_options(rings, gate), target=target
        )

    async def start(
        self,
        rings: Sequence[str],
        version: int = 3,
        *,
        gate: Gate = QUICK,
        target: Target | None = None,
        by: str = "ann",
        hub: FleetHub | None = None,
    ) -> Record:
        """Plan and start."""
        found = await self.plan(rings, version, gate, target)
        return await starting.start(hub or self.client, found, by=by)

    async def go(self, rounds: int = 30) -> list[str]:
        """Steps and answers in turn until nothing moves; return what was said."""
        said: list[str] = []
        for _ in range(rounds):
            events, _ = await running.settle(self.client, open_store(self.store))
            said += [event.said for event in events if event.moved]
            if not self.puppets.answer() and not any(event.moved for event in events):
                break
        return said

    async def status(self) -> reading.RolloutStatus:
        return await reading.status(self.client, MODEL)

    def behave(self, behaviour: Behaviour) -> None:
        self.puppets.behaviour = behaviour

    async def ids(self) -> list[str]:
        return [str(each["id"]) for each in await self.client.configurations()]


async def stocked_shop(root: Path) -> tuple[Shop, dict[int, str], dict[tuple[int | None, int], int]]:
    """A store with three versions of a model; their digests, and what each way costs."""
    shop = await Shop.open(root)
    body = bytes(range(256)) * 400
    for number in range(1, 4):
        await shop.publish_bytes(MODEL, body[: 5000 * number] + b"x" * number + body[5000 * number :])
    store = open_store(str(shop.path))
    digests = dict((await read_catalogue(store)).model(MODEL).versions)
    prices: dict[tuple[int | None, int], int] = {}
    for to, digest in digests.items():
        prices[None, to] = (await price.price(store, digest, None)).bytes
        for base, held in digests.items():
            manifest, _, _ = await read_manifest(store, held)
            prices[base, to] = (await price.price(store, digest, manifest)).bytes
    return shop, digests, prices


@pytest.fixture
async def world(tmp_path: Path, worker_id: str) -> AsyncIterator[World]:
    shop, digests, prices = await stocked_shop(tmp_path)
    async with (
        Hub(tmp_path / "hub", HubAddress(loopback_address(worker_id), service_port=0)) as hub,
        ServiceClient(hub.service) as client,
    ):
        yield World(hub, client, shop, Puppets(hub, MODEL, digests, prices, obedient))
