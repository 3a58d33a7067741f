"""What a program that listens on the network may sign with: the online keys, for models that exist."""

from __future__ import annotations

from collections.abc import Iterable

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.store import Store
from modelsync_server.trust import Repository
from modelsync_server.trust.keys import OFFLINE


async def check_service_keys(store: Store, keys: str | None, models: Iterable[str]) -> None:
    """Refuse to run with keys that a service must not have (RefusedError), or for a model without a version."""
    repository = await Repository.open(store, keys)
    offline = [role for role in OFFLINE if repository.keys.signers(repository.keys.keys_of(role))]
    if offline:
        raise RefusedError(
            f"the key folder can sign as {' and '.join(offline)}, which a service on the network must not: "
            "give it a folder without offline/."
        )
    catalogue = await repository.catalogue()
    for name in sorted(set(models) - set(catalogue.models)):
        raise UsageError(f"{name} has no version yet: publish its first one by hand, with the offline keys.")
