"""Leads from an address to a page. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelsync_protocol.errors import UsageError
from modelsync_server.dashboard import device_page, fleet_page, model_page, rollout_pages
from modelsync_server.dashboard.asking import Sources
from modelsync_server.dashboard.tables import View


class Views(Sources):
    """Makes the pages."""

    async def page(self, parts: Sequence[str], query: Mapping[str, str]) -> View:
        """The page at an address (its path's parts and its query); UsageError if there is none."""
        match list(parts):
            case []:
                made = fleet_page.fleet(self, query)
            case ["devices"]:
                made = fleet_page.devices(self, query)
            case ["device", identifier]:
                made = device_page.device(self, identifier)
            case ["model", name]:
                made = model_page.model(self, name)
            case ["model", name, "update", pair]:
                made = model_page.update(self, name, pair)
            case ["rollouts"]:
                made = rollout_pages.rollouts(self)
            case ["rollout", name]:
                made = rollout_pages.rollout(self, name)
            case ["cost"]:
                made = rollout_pages.cost(self)
            case ["acts"]:
                made = device_page.acts(self)
            case _:
                raise UsageError("there is no such page.")
        view = await made
        # A list of the hub's is searched by the hub; the others are here whole.
        return view.arranged(query.get("sort", ""), query.get("find", ""))
