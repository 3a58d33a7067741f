"""Devices without a process: they read their desired properties at a hub and report as the daemon does.

What they report has the daemon's own shape (protocol's `build_reported`), and their bytes are the plan's. Behaviour is
decided by a function of the device and the version, so that a test is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelsync_protocol import twin
from modelsync_server.hub.hub import Hub
from modelsync_server.iothub.identity import Identity

ACTIVE, REFUSED, ROLLED_BACK, AWAY, SLOW, NONSENSE = "active", "refused", "rolled back", "away", "slow", "nonsense"
UNSUPPORTED = "unsupported"

Behaviour = Callable[[str, int], str]


def obedient(device: str, version: int) -> str:
    return ACTIVE


class Puppets:
    """Devices of one model. `prices` maps (base version or None, version) to bytes, `digests` versions to digests."""

    def __init__(
        self,
        hub: Hub,
        model: str,
        digests: Mapping[int, str],
        prices: Mapping[tuple[int | None, int], int],
        behaviour: Behaviour = obedient,
        module: str | None = None,
    ) -> None:
        self.hub, self.model, self.digests, self.prices = hub, model, digests, prices
        self.behaviour, self.module = behaviour, module
        self.serving: dict[str, int | None] = {}
        self.told: dict[str, int | None] = {}
        self.asked: dict[str, list[int]] = {}
        self.fetched: dict[str, int] = {}
        self.runs_on: dict[str, str] = {}
        """What devices say that they run the model on; the others say nothing."""
        self.seen: dict[str, dict[str, Any]] = {}
        """What devices with a real client of the SDK were told of their desired properties; the others read the hub."""
        self.senders: dict[str, Callable[[dict[str, Any]], None]] = {}

    def add(self, devices: Iterable[str], version: int | None, *, wish: bool = False, **tags: Any) -> None:
        """Register devices that serve `version` (None: nothing), as a hand would have set it (`wish`)."""
        for device in devices:
            self.hub.add_device(device, self.module)
            if tags:
                self.hub.registry.change(Identity(device, None), {"tags": tags})
                self.hub.configurations.apply_to(Identity(device))
            if tags and self.module is not None:
                self.hub.registry.change(Identity(device, self.module), {"tags": tags})
            self.serving[device], self.told[device] = version, version if wish else None
            self.asked[device], self.fetched[device] = [], 0
            if wish and version is not None:
                section = {twin.SECTION: {"models": {self.model: {"version": version}}}}
                self.hub.set_desired(device, section, self.module)
            if self.behaviour(device, 0) != AWAY:
                self._report(device, "active" if version else "idle", None if not wish else version)

    def answer(self) -> int:
        """Each device that is there reads its twin and does what it does; return how many had something to do."""
        return sum(self._look(device) for device in list(self.serving))

    def _look(self, device: str) -> bool:
        desired = self.seen[device] if device in self.senders else self.hub.desired(device, self.module)
        wish = twin.parse_desired(desired).models.get(self.model, twin.Wish())
        if self.behaviour(device, wish.version or 0) == AWAY:
            return False
        if wish.absent:
            if self.serving[device] is None:
                return False
            self.serving[device], self.told[device] = None, None
            self._report(device, "idle", None)
            return True
        if wish.version == self.told[device]:
            return False
        self.told[device] = wish.version
        if wish.version is None or wish.version == self.serving[device]:
            self._report(device, "active" if self.serving[device] else "idle", wish.version)
            return True
        self.asked[device].append(wish.version)
        fate = self.behaviour(device, wish.version)
        if fate == SLOW:
            self._report(device, "fetching", wish.version)
        elif fate == UNSUPPORTED:
            error = {"code": "unsupported", "text": "it can't run here: ONNX opset 21 is required."}
            self._report(device, "unsupported", wish.version, None, error)
        elif fate == NONSENSE:
            self._put(device, {"state": ["<script>"], "version": "x" * 50, "desired": {"a": 1}})
        else:
            size = self.prices[self.serving[device], wish.version]
            self.fetched[device] += size
            if fate == ACTIVE:
                self.serving[device] = wish.version
                self._report(device, "active", wish.version, size)
            else:
                state = "quarantined" if fate == REFUSED else "rolled back"
                self._report(device, state, wish.version, size, {"code": "probe", "text": "<b>it fails</b>"})
        return True

    def _report(
        self, device: str, state: str, desired: int | None, size: int | None = None, error: dict[str, str] | None = None
    ) -> None:
        version = self.serving[device]
        model = {
            "version": version,
            "digest": None if version is None else self.digests[version],
            "state": state,
            "desired": desired,
            "bytes": size,
            "error": error,
            "runs_on": self.runs_on.get(device),
        }
        document = {"models": {self.model: model}, "daemon": {"version": "0.1.0", "formats": [1]}, "ledger": {}}
        built = twin.build_reported(document)
        before = self.hub.reported(device, self.module)
        kept = {key: value for key, value in before.items() if not key.startswith("$")}
        patch = twin.difference(kept, built)
        if patch:
            self._send(device, patch)

    def _put(self, device: str, model: dict[str, Any]) -> None:
        self._send(device, {twin.SECTION: {"models": {self.model: model}}})

    def _send(self, device: str, patch: dict[str, Any]) -> None:
        sender = self.senders.get(device)
        if sender is not None:
            sender(patch)
        else:
            self.hub.registry.report(Identity(device, self.module), patch)

    def held(self, version: int | None) -> list[str]:
        """The devices that serve `version`."""
        return sorted(device for device, found in self.serving.items() if found == version)
