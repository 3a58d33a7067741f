"""Asks the hub that `publish --hub` names which versions its fleet holds. No logic: that is rollout/bases.py's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modelsync_server.cli.hub_commands import ask_hub

if TYPE_CHECKING:
    from modelsync_server.rollout.bases import FleetBases


def ask(store: str, name: str, most: int, module: str | None, service: str | None, state: Path | None) -> FleetBases:
    """The versions to make updates from, of devices, or of modules called `module`."""
    from modelsync_server.rollout.bases import fleet_bases
    from modelsync_server.rollout.pacing import PacedHub
    from modelsync_server.rollout.target import Kind, Target
    from modelsync_server.store import open_store

    target = Target() if module is None else Target(Kind.MODULE, module)
    return ask_hub(service, state, lambda client: fleet_bases(open_store(store), PacedHub(client), name, most, target))
