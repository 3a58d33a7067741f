"""Chooses the versions to make updates from: those that a fleet really holds, most devices first. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from modelsync_protocol.errors import UsageError
from modelsync_server.rollout.fleet import holders
from modelsync_server.rollout.port import FleetHub
from modelsync_server.rollout.target import Target
from modelsync_server.store import Store
from modelsync_server.trust import catalogue_for

MAX_UPDATES = 5


@dataclass(frozen=True, slots=True)
class FleetBases:
    """Versions to build on, and those left out, each with its number of devices.

    `strangers` are devices that hold bytes which the store does not sign (withdrawn, or from elsewhere).
    """

    chosen: tuple[tuple[int, int], ...] = ()
    left_out: tuple[tuple[int, int], ...] = ()
    strangers: int = 0

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(version for version, _ in self.chosen)

    def document(self) -> dict[str, object]:
        """As JSON."""
        return {
            "bases": [{"version": version, "devices": devices} for version, devices in self.chosen],
            "left_out": [{"version": version, "devices": devices} for version, devices in self.left_out],
            "strangers": self.strangers,
        }

    def said(self, install_bytes: int) -> list[str]:
        """What the publisher is told: who is left out, and what that costs them."""
        lines = [
            f"no update from version {version}, which {devices} devices hold: together they fetch "
            f"{devices * install_bytes:,} bytes at most (--max-updates)."
            for version, devices in self.left_out
        ]
        if self.strangers:
            lines.append(
                f"{self.strangers} devices hold bytes that this store does not sign: together they fetch "
                f"{self.strangers * install_bytes:,} bytes."
            )
        return lines


async def fleet_bases(
    store: Store, hub: FleetHub, model: str, most: int = MAX_UPDATES, target: Target | None = None
) -> FleetBases:
    """The versions of `model` that the fleet holds, most devices first, at most `most` of them."""
    try:
        known = (await catalogue_for(store, model)).model(model)
    except UsageError:  # its first version is being published
        known = None
    numbers = {digest: number for number, digest in known.versions.items()} if known is not None else {}
    held: dict[int, int] = {}
    strangers = 0
    for digest, devices in (await holders(hub, target or Target(), model)).items():
        number = numbers.get(digest)
        if number is None:
            strangers += devices
        else:
            held[number] = held.get(number, 0) + devices
    ordered = sorted(held.items(), key=lambda item: (-item[1], -item[0]))
    return FleetBases(tuple(ordered[:most]), tuple(ordered[most:]), strangers)
