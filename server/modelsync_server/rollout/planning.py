"""What a rollout will cost, ring by ring, before anybody is asked: devices, bases, bytes, money, what is missing.

Prices come from the same plan that devices carry out (modelsync_protocol.plan through publish.price). Reads only.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.plan import Kind as PlanKind
from modelsync_protocol.plan import Plan
from modelsync_server.publish import price
from modelsync_server.rollout.fleet import Census, Held, censuses
from modelsync_server.rollout.port import FleetHub
from modelsync_server.rollout.rings import Ring
from modelsync_server.rollout.target import Target
from modelsync_server.store import ObjectNotFound, Store
from modelsync_server.store.published import read_manifest
from modelsync_server.trust import ModelVersions, catalogue_for

SILENT_DAYS = 30.0
GIGABYTE = 10**9


@dataclass(frozen=True, slots=True)
class Price:
    """What one device pays: how it gets the version, bytes, and the base's version (None: nothing, or unknown)."""

    kind: PlanKind
    bytes: int
    base: int | None


@dataclass(frozen=True, slots=True)
class BaseGroup:
    """The devices of a ring that hold the same version. `missing`: an update would be cheaper, and there is none."""

    version: int | None
    digest: str | None
    devices: int
    kind: str
    bytes: int
    missing: bool

    @property
    def total(self) -> int:
        return self.devices * self.bytes


@dataclass(frozen=True, slots=True)
class RingPlan:
    """One ring's plan. `shared`: devices that an earlier ring has too (they count there)."""

    ring: Ring
    groups: tuple[BaseGroup, ...]
    silent: int
    on_hold: int
    quarantined: int
    shared: int
    lacks: Mapping[str, int] = field(default_factory=dict)
    """What devices lack to run the version → how many; a device counts once."""

    @property
    def reachable(self) -> int:
        return sum(group.devices for group in self.groups)

    @property
    def devices(self) -> int:
        return self.reachable + self.silent + self.on_hold + self.quarantined + self.unsupported

    @property
    def unsupported(self) -> int:
        """How many report that they can't run the version, or what they have by which they can't."""
        return sum(self.lacks.values())

    @property
    def bytes(self) -> int:
        """What the reachable devices fetch."""
        return sum(group.total for group in self.groups)

    @property
    def worst(self) -> int:
        return max((group.bytes for group in self.groups if group.devices), default=0)


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """The plan of a whole rollout; `advice` is what its author should know, with commands."""

    model: str
    version: int
    digest: str
    target: Target
    rings: tuple[RingPlan, ...]
    newest_held: int | None
    advice: tuple[str, ...]
    price_per_gb: float | None
    currency: str

    @property
    def bytes(self) -> int:
        return sum(ring.bytes for ring in self.rings)

    @property
    def devices(self) -> int:
        return sum(ring.devices for ring in self.rings)

    def money(self, size: int) -> float | None:
        """What so many bytes cost; None without a price."""
        return None if self.price_per_gb is None else size / GIGABYTE * self.price_per_gb


async def signed_digest(store: Store, model: str, version: int) -> tuple[ModelVersions, str]:
    """The model's versions and the digest of a signed one; UsageError, or RefusedError if it was withdrawn."""
    versions = (await catalogue_for(store, model)).model(model)
    if version in versions.withdrawn:
        raise RefusedError(f"version {version} of {model!r} was withdrawn; devices refuse it.")
    if version not in versions.versions:
        raise UsageError(f"the store signs no version {version} of {model!r}; `modelsync list` shows what there is.")
    return versions, versions.versions[version]


async def plan(
    store: Store,
    hub: FleetHub,
    model: str,
    version: int,
    rings: Sequence[Ring],
    *,
    target: Target | None = None,
    silent_days: float = SILENT_DAYS,
    price_per_gb: float | None = None,
    currency: str = "EUR",
) -> RolloutPlan:
    """Plan a rollout. UsageError for a version that is not signed or a ring that nobody is in, RefusedError if it
    was withdrawn; what the hub and the store raise."""
    target = target or Target()
    versions, digest = await signed_digest(store, model, version)
    found = await censuses(hub, target, model, version, rings, silent_days, versions.requires.get(version, {}))
    prices = Prices(store, versions, digest)
    plans = []
    for ring, (counted, shared) in zip(rings, found, strict=True):
        if counted.devices == 0:
            why = f"all {shared} of its devices are in earlier rings" if shared else "no device fits its condition"
            raise UsageError(f"ring {ring.name!r} is empty: {why}; see `modelsync rollout plan --help`.")
        plans.append(await _ring_plan(ring, counted, shared, prices))
    newest = max((group.version for each in plans for group in each.groups if group.version), default=None)
    advice = _advice(store, model, version, plans)
    return RolloutPlan(model, version, digest, target, tuple(plans), newest, advice, price_per_gb, currency)


class Prices:
    """Prices of one target version, each asked of the store once."""

    def __init__(self, store: Store, versions: ModelVersions, digest: str) -> None:
        self._store, self._digest = store, digest
        self._numbers = {each: number for number, each in versions.versions.items()}
        self._known: dict[str | None, tuple[Plan, bool]] = {}

    def version(self, held: Held) -> int | None:
        """The number of what is held, if the store signs it."""
        return self._numbers.get(held.digest or "")

    async def of(self, held: Held) -> tuple[Plan, bool]:
        """The plan of a device that holds this, and whether no update object serves it though the base is known."""
        if held.digest not in self._known:
            base = await self._manifest(held.digest)
            found = await price.price(self._store, self._digest, base)
            self._known[held.digest] = found, base is not None and found.kind not in (PlanKind.HELD, PlanKind.UPDATE)
        return self._known[held.digest]

    async def _manifest(self, digest: str | None) -> Manifest | None:
        if digest is None:
            return None
        try:
            return (await read_manifest(self._store, digest))[0]
        except (ObjectNotFound, FormatError):
            return None  # withdrawn and collected, or another store's: the device installs anew


async def _ring_plan(ring: Ring, counted: Census, shared: int, prices: Prices) -> RingPlan:
    groups = []
    for held, devices in counted.held.items():
        found, missing = await prices.of(held)
        groups.append(BaseGroup(prices.version(held), held.digest, devices, found.kind.value, found.bytes, missing))
    groups.sort(key=lambda group: (-group.devices, -(group.version or 0)))
    return RingPlan(ring, tuple(groups), counted.silent, counted.on_hold, counted.quarantined, shared, counted.lacks)


def _advice(store: Store, model: str, version: int, plans: Sequence[RingPlan]) -> tuple[str, ...]:
    unknown = [
        f"ring {each.ring.name} lists {each.ring.listed} devices, and {each.devices + each.shared} are at this hub."
        for each in plans
        if each.ring.listed > each.devices + each.shared
    ]
    return (*unknown, *_missing_updates(store, model, version, plans))


def _missing_updates(store: Store, model: str, version: int, plans: Sequence[RingPlan]) -> tuple[str, ...]:
    missing: dict[int, int] = {}
    for each in plans:
        for group in each.groups:
            if group.missing and group.version is not None:
                missing[group.version] = missing.get(group.version, 0) + group.devices
    if not missing:
        return ()
    bases = ",".join(str(number) for number, _ in sorted(missing.items(), key=lambda item: -item[1]))
    devices = sum(missing.values())
    return (
        f"{devices} devices hold versions without an update to {version}: modelsync publish "
        f"{shlex.quote(store.url)} {model} PATH-OF-VERSION-{version} --version {version} --bases {bases}",
    )


def document(found: RolloutPlan) -> Mapping[str, object]:
    """The plan as JSON."""
    return {
        "model": found.model,
        "version": found.version,
        "target": str(found.target),
        "devices": found.devices,
        "bytes": found.bytes,
        "money": found.money(found.bytes),
        "currency": found.currency if found.price_per_gb is not None else None,
        "rings": [
            {
                "name": each.ring.name,
                "where": each.ring.where,
                "gate": each.ring.gate.document(),
                "devices": each.devices,
                "reachable": each.reachable,
                "bytes": each.bytes,
                "worst": each.worst,
                "money": found.money(each.bytes),
                "bases": [
                    {
                        "version": group.version,
                        "devices": group.devices,
                        "kind": group.kind,
                        "bytes": group.bytes,
                        "missing": group.missing,
                    }
                    for group in each.groups
                ],
                "unreachable": {
                    "silent": each.silent,
                    "held": each.on_hold,
                    "quarantined": each.quarantined,
                    "unsupported": each.unsupported,
                },
                "lacks": dict(each.lacks),
                "shared": each.shared,
            }
            for each in found.rings
        ],
        "advice": list(found.advice),
    }
