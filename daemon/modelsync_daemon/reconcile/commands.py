"""What the hub, the socket and inference processes may ask of a running daemon. It reads no payloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from modelsync_daemon.activate import inference_processes
from modelsync_daemon.activate.activation import Activation
from modelsync_daemon.activate.inference_history import InferenceHistory
from modelsync_daemon.activate.inference_processes import Report
from modelsync_daemon.capabilities import environments
from modelsync_daemon.disk import garbage
from modelsync_daemon.disk.pointer import Pointer, Reference
from modelsync_daemon.disk.states import PREPARING, State
from modelsync_daemon.reconcile import carried_report, operations, status
from modelsync_daemon.reconcile.device import Device
from modelsync_daemon.reconcile.imports import Imports
from modelsync_daemon.reconcile.pushed_updates import PushedUpdates
from modelsync_daemon.reconcile.reconciler import Reconciler
from modelsync_daemon.reconcile.repair import Repairs
from modelsync_daemon.reconcile.signals import Signals
from modelsync_daemon.reconcile.update import Updates
from modelsync_daemon.transfer import origin_secret
from modelsync_protocol import names
from modelsync_protocol.errors import RefusedError, UsageError


class HubConnection(Protocol):
    """What is asked of the connection to the hub (control.hub_link.HubLink)."""

    @property
    def connected(self) -> bool:
        """Whether the hub can be reached as far as is known."""
        ...

    def count(self) -> None:
        """Tell the ledger what the connection carried since the last call."""

    def read_soon(self) -> None:
        """Read the twin now, or at once after the next connect."""


class Commands:
    """One resident daemon's commands. They may be given from its event loop at any time."""

    def __init__(
        self,
        device: Device,
        reconciler: Reconciler,
        updates: Updates,
        pushed: PushedUpdates,
        imports: Imports,
        repairs: Repairs,
        activation: Activation,
        history: InferenceHistory,
        signals: Signals,
        hub: HubConnection | None,
    ) -> None:
        self._device, self._data, self._database = device, device.data, device.database
        self._reconciler, self._updates, self._pushed, self._repairs = reconciler, updates, pushed, repairs
        self._imports = imports
        self._activation, self._history, self._signals, self._hub = activation, history, signals, hub

    def status(self) -> dict[str, Any]:
        """The status document."""
        if self._hub is not None:
            self._hub.count()
        return status.build(
            self._data,
            self._database,
            self._device.ledger,
            self._device.desired.now.models,
            self._updates.progress,
            running=True,
            connected=self._hub is not None and self._hub.connected,
            site=self._device.site(),
            network=self._device.network(),
        )

    def sync(self) -> None:
        """Read the twin and try again what waits, now."""
        self._reconciler.hurry(None)
        if self._hub is not None:
            self._hub.read_soon()

    async def rollback(self, name: str) -> Pointer:
        """Back to the kept previous version; sets a hold until desired changes. Raises RefusedError."""
        self._known(name)
        async with self._reconciler.paused():
            self._activation.check_previous(name)
            await self._reconciler.stop(name)
            return operations.roll_back(self._database, self._activation, name, self._device.desired.of(name))

    async def hold(self, name: str) -> None:
        """Keep what serves, whatever the twin says, until released. Raises RefusedError for an unknown model."""
        self._known(name)
        async with self._reconciler.paused():
            operations.hold(self._database, name)
            if self._database.model(name).state in PREPARING | {State.PROBING}:
                await self._reconciler.stop(name)
        self._signals.changed.set()

    def release(self, name: str) -> None:
        """End a hold and every quarantine of `name`. Raises RefusedError if there is none."""
        self._known(name)
        operations.release(self._database, name)
        self._signals.changed.set()
        self._signals.look.set()

    def repair(self, name: str, reference: Reference) -> None:
        """Mend an installed version that a scrub found damaged, in the background. Raises RefusedError."""
        self._repairs.begin(name, reference, lambda name: name in self._reconciler.tasks or self._pushed.busy(name))

    async def collect(self) -> garbage.Collected:
        """Remove what nothing refers to; what is under way is left alone. Raises LocalError."""
        async with self._reconciler.paused():
            return garbage.collect(self._data, self._database, self._reconciler.in_use, self._pushed.lies_staged)

    async def apply(self, payload: Any) -> dict[str, Any]:
        """Stage a pushed update. Raises UsageError or RefusedError; the desired version then fetches as usual."""
        try:
            outcome = await self._pushed.apply(payload, self._reconciler.tasks.__contains__)
        finally:
            self._signals.look.set()
        return {"model": outcome.name, "version": outcome.version, "digest": outcome.digest}

    async def bring(self, path: str, listed: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Begin to bring what the medium at `path` lists of models' versions; what `imported` says. LocalError."""
        async with self._reconciler.paused():
            connected = self._hub is not None and self._hub.connected
            for name in self._imports.begin(path, listed, connected):
                await self._reconciler.stop(name)  # it may be fetching the same version over the line
                self._database.update(name, retry_at=0)
        self._signals.changed.set()
        return self.imported()

    def imported(self) -> dict[str, Any]:
        """What became of each model of the last medium, and how it stands now."""
        return {
            name: {**found.document(), "state": self._database.model(name).state.value}
            for name, found in self._imports.results.items()
        }

    def carried_report(self) -> dict[str, Any]:
        """What is to be carried to the hub where there is no line. LocalError."""
        return carried_report.build(self._database, self.status(), self._device.problems())

    def keep_secret(self, secret: str | None) -> str | None:
        """Keep the origin's new secret (None: forget it); what waits for one goes on. Returns its expiry."""
        expires = origin_secret.keep(self._data.root, secret)
        self._reconciler.hurry({"access"})
        return expires

    def report(self, name: str, report: Report) -> None:
        """An inference process reports."""
        self._activation.processes.report(name, report)
        if self._history.take(name, report):
            self._signals.changed.set()
        if self._activation.processes.fewer(name):  # what the others say is what counts now
            self._keep_environments(name)
        bad = report.state in (inference_processes.REFUSED, inference_processes.FAILED)
        if report.pointer == "current" and bad and name not in self._reconciler.tasks:
            self._activation.refused_current(name, report, self._device.desired.of(name).retry)
            self._signals.look.set()

    def environment(self, name: str, pid: int, document: object) -> None:
        """An inference process says what it runs models with. UsageError; one that is not registered is not heard."""
        from modelsync_protocol.requirements import capabilities  # only where a process says something

        said = capabilities.environment(document)
        if said is None:
            raise UsageError("an environment is an object with python and packages.")
        self._activation.processes.say(name, pid, said)
        self._keep_environments(name)

    def _keep_environments(self, name: str) -> None:
        if environments.keep(self._database, name, self._activation.processes.environments(name)):
            self._signals.changed.set()
            self._signals.look.set()

    def _known(self, name: str) -> None:
        names.check_model_name(name)
        if self._database.model(name).since == 0 and name not in self._device.desired.now.models:
            raise RefusedError(f"{name} is not a model of this device.")
