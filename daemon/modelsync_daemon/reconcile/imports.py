"""Brings versions from an offline medium: which of them, and what became of each. Updates run in update.py.

Bytes from a medium are not the line's: no budget, no window and no rate counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from modelsync_daemon.disk.database import ModelRow, Quarantined
from modelsync_daemon.disk.pointer import Reference
from modelsync_daemon.disk.states import SWITCHING
from modelsync_daemon.reconcile.decision import holds
from modelsync_daemon.reconcile.desired import DesiredState
from modelsync_daemon.reconcile.device import Device
from modelsync_daemon.workers.messages import EventCallback, Job, Outcome, Preparer
from modelsync_protocol.errors import ModelsyncError
from modelsync_protocol.twin import Wish

COMING, BROUGHT, HERE, LEFT, FAILED = "coming", "brought", "here", "left", "failed"
"""What becomes of a model on a medium: under way; verified and installed; not needed; not wanted; refused or broken."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one model: one of the words above, the version, and for people a sentence if there is one."""

    result: str
    version: int | None = None
    text: str = ""
    exit_code: int = 0

    def document(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


def choose(
    versions: Sequence[int],
    wish: Wish,
    serving: Reference | None,
    row: ModelRow,
    quarantined: Mapping[str, Quarantined],
    *,
    held: bool = False,
    connected: bool = False,
) -> Imported:
    """What to do with a model of which a medium has `versions`: COMING means to bring that version.

    The hub's wish counts where it can be asked (`connected`) or where the medium has what it wants; else the medium's
    newest does. `held`: by the policy.
    """
    if wish.absent:
        return Imported(LEFT, None, "the twin wants it absent")
    target = max(versions)
    if wish.version in versions and wish.version is not None:
        target = wish.version
    elif wish.version is not None and connected:
        return Imported(LEFT, None, f"the twin asks for version {wish.version}, which is not on this medium")
    if serving is not None and (serving.version == target or (serving.version > target != wish.version)):
        return Imported(HERE, serving.version)
    if row.state in SWITCHING and row.target_version == target:
        return Imported(BROUGHT, target)  # it is just being activated
    if held or holds(row, replace(wish, version=target)):
        return Imported(LEFT, target, "a hold keeps it out; release it", 3)
    for refused in quarantined.values():
        if refused.version == target and refused.retry == wish.retry:
            return Imported(FAILED, target, f"it was refused before: {refused.reason} Release it to try again.", 3)
    return Imported(COMING, target)


class Imports:
    """The imports of one resident daemon. `results` are the last one's, by model."""

    def __init__(self, device: Device, preparer: Preparer) -> None:
        self._device, self._preparer = device, preparer
        self.results: dict[str, Imported] = {}

    def begin(self, path: str, listed: Mapping[str, Sequence[int]], connected: bool) -> list[str]:
        """Decide for each model what becomes of it, and wish for what is to be brought; the names of those.

        Nothing else may begin anything meanwhile.
        """
        device, self.results = self._device, {}
        for name, versions in sorted(listed.items()):
            current = device.data.read_pointer(name)
            self.results[name] = choose(
                versions,
                device.desired.now.models.get(name, Wish()),
                current.reference if current else None,
                device.database.model(name),
                device.database.quarantined(name),
                held=device.policy().hold,
                connected=connected,
            )
        coming = {name: found.version for name, found in self.results.items() if found.result == COMING}
        for name, version in coming.items():
            assert version is not None
            device.desired.carry(name, version, path)
        return list(coming)

    async def prepare(self, name: str, version: int | None, on_event: EventCallback) -> Outcome | None:
        """Bring the version from its medium, if it is on one. Raises ModelsyncError, and forgets the wish."""
        path = self._device.desired.medium(name, version)
        if path is None:
            return None
        try:
            outcome = await self._preparer.prepare(job(self._device, name, version, path), on_event)
        except ModelsyncError as error:
            self._device.desired.drop(name)
            self.results[name] = Imported(FAILED, version, str(error), error.exit_code)
            raise
        settle(self._device.desired, name, outcome.version)
        self.results[name] = Imported(BROUGHT, outcome.version)
        return replace(outcome, bytes=0, requests=0)


def job(device: Device, name: str, version: int | None, path: str) -> Job:
    """The worker's job that brings a version from the medium at `path`."""
    settings = device.settings
    return Job(
        name=name,
        version=version,
        origin="",
        data=str(device.data.root),
        trust_root=str(settings.trust) if settings.trust else None,
        quarantined=tuple(device.database.quarantined(name)),
        media=path,
        require_confinement=settings.require_confinement,
        **device.requirements(name),
    )


def settle(desired: DesiredState, name: str, version: int) -> None:
    """The version is here: it stays wished for, and its medium is needed no more."""
    desired.carry(name, version, None)
