"""The publisher's side of trust: keys, signed metadata, bundles (DESIGN §4). The device's side is the daemon's."""

from __future__ import annotations

from modelsync_server.trust.bundles import Offers
from modelsync_server.trust.initialise import Initialised, initialise
from modelsync_server.trust.keys import KeyStore
from modelsync_server.trust.metadata import Catalogue, ModelVersions, catalogue_for, read_catalogue
from modelsync_server.trust.moving import give_own_chains
from modelsync_server.trust.new_target import NewTarget
from modelsync_server.trust.refreshing import RefreshReport
from modelsync_server.trust.repository import Repository

__all__ = [
    "Catalogue",
    "Initialised",
    "KeyStore",
    "ModelVersions",
    "NewTarget",
    "Offers",
    "RefreshReport",
    "Repository",
    "catalogue_for",
    "give_own_chains",
    "initialise",
    "read_catalogue",
]
