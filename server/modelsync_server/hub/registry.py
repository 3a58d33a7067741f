"""Twins and registrations as both sides of the hub use them: reads, changes, preconditions. No network here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from modelsync_protocol.twin import difference
from modelsync_server.hub.state import Registration, State, Twin, new_key, utc_now
from modelsync_server.iothub import twin_document as documents
from modelsync_server.iothub.errors import (
    HubError,
    argument_invalid,
    device_exists,
    device_not_found,
    module_exists,
    module_not_found,
    precondition_failed,
)
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.twin_document import Json

DesiredListener = Callable[[Identity, Json], None]
IdentityListener = Callable[[Identity], None]
DesiredCheck = Callable[[Identity, Json], None]
"""Raises UsageError for desired properties that may not be set."""


class Registry:
    """Operations on identities and twins. Listeners hear of changes once they are durable."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.on_desired: DesiredListener = lambda identity, notice: None
        self.on_revoked: IdentityListener = lambda identity: None
        self.on_removed: IdentityListener = lambda identity: None
        self.on_tags: IdentityListener = lambda identity: None
        self.check_desired: DesiredCheck = lambda identity, values: None

    def registration(self, identity: Identity) -> Registration:
        """Raise HubError 404 if the identity is not registered."""
        found = self._state.find(identity)
        if found is None:
            raise self._not_found(identity)
        return found

    def twin(self, identity: Identity) -> Twin:
        found = self._state.twin(identity)
        if found is None:
            raise self._not_found(identity)
        return found

    def modules(self, device: str) -> list[Registration]:
        self.registration(Identity(device))
        return [self.registration(identity) for identity in self._state.modules_of(device)]

    # Registrations

    def put(
        self,
        identity: Identity,
        *,
        keys: tuple[str | None, str | None] = (None, None),
        status: str = "enabled",
        if_match: str | None = None,
    ) -> Registration:
        """Create an identity, or change it if `if_match` names its ETag or is '*'."""
        if status not in ("enabled", "disabled"):
            raise argument_invalid("status is neither enabled nor disabled.")
        if identity.module is not None:
            self.registration(Identity(identity.device))
        existing = self._state.find(identity)
        if existing is None:
            self._state.add(identity, primary_key=keys[0], secondary_key=keys[1], status=status)
            self.on_tags(identity)
        elif if_match is None:
            raise device_exists(identity.device) if identity.module is None else module_exists(identity.module)
        else:
            check_match(if_match, existing.etag)
            primary, secondary = keys[0] or new_key(), keys[1] or new_key()
            self._state.update_registration(identity, primary, secondary, status)
            # Keys or status may have been withdrawn: whoever is connected has to prove itself again.
            self.on_revoked(identity)
        return self.registration(identity)

    def delete(self, identity: Identity, *, if_match: str | None = None) -> None:
        check_match(if_match, self.registration(identity).etag)
        gone = [identity] if identity.module else [identity, *(r.identity for r in self.modules(identity.device))]
        self._state.delete(identity)
        for each in gone:
            self.on_removed(each)
            self.on_revoked(each)

    # Twins

    def report(self, identity: Identity, patch: Json) -> int:
        """Merge a device's reported properties; return their new version; HubError 400 on a breach of limits."""
        twin = self.twin(identity)
        reported = documents.patched(twin.reported, patch, utc_now(), name="reported")
        self._state.save_twin(identity, replace(twin, reported=reported, version=twin.version + 1))
        return reported.version

    def change(self, identity: Identity, body: Json, *, if_match: str | None = None, whole: bool = False) -> Twin:
        """Apply a service request `{"tags":…,"properties":{"desired":…}}`: merged, or replaced if `whole`.

        Tells the desired listener the patch (or the whole new document) with its `$version`.
        """
        twin = self.twin(identity)
        check_match(if_match, twin.etag)
        now = utc_now()
        properties = body.get("properties") or {}
        if not isinstance(properties, dict):
            raise argument_invalid("properties is not a JSON object.")
        tags, desired, notice = twin.tags, twin.desired, None
        if body.get("tags") is not None or whole:
            patch = documents.service_patch(body.get("tags") or {}, "tags")
            tags = documents.merged_tags({} if whole else twin.tags, patch)
        if properties.get("desired") is not None or whole:
            patch = documents.service_patch(properties.get("desired") or {}, "desired")
            change = documents.replaced if whole else documents.patched
            desired = change(twin.desired, patch, now, name="desired")
            self.check_desired(identity, desired.values)
            notice = {**(desired.values if whole else patch), "$version": desired.version}
        if tags is twin.tags and notice is None:
            return twin
        changed = replace(twin, tags=tags, desired=desired, version=twin.version + 1, revision=twin.revision + 1)
        self._state.save_twin(identity, changed)
        if notice is not None:
            self.on_desired(identity, notice)
        if tags is not twin.tags:
            self.on_tags(identity)
            return self.twin(identity)
        return changed

    def configure(self, identity: Identity, values: Json) -> Json | None:
        """Make `values` the desired properties for a configuration; return the notice, None if nothing changed.

        The caller sends the notice once its transaction is durable. Limits raise HubError 400.
        """
        twin = self.twin(identity)
        patch = difference(twin.desired.values, values)
        if not patch:
            return None
        desired = documents.patched(twin.desired, patch, utc_now(), name="desired")
        self.check_desired(identity, desired.values)
        changed = replace(twin, desired=desired, version=twin.version + 1, revision=twin.revision + 1)
        self._state.save_twin(identity, changed)
        return {**patch, "$version": desired.version}

    def _not_found(self, identity: Identity) -> HubError:
        if identity.module is None or self._state.find(Identity(identity.device)) is None:
            return device_not_found(identity.device)
        return module_not_found(identity.module)


def check_match(if_match: str | None, etag: str) -> None:
    """Raise HubError 412 unless an If-Match header, if there is one, names this ETag or is '*'."""
    if if_match is None or if_match.strip() == "*":
        return
    if if_match.strip().removeprefix("W/").strip('"') != etag:
        raise precondition_failed()
