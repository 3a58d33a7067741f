"""The control plane's port: a twin, hints that it changed, direct methods.

Implementations: azure.py (the SDK), iothub.py (IoT Hub without it), broker.py (plain MQTT), aws.py (AWS IoT's shadows).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Twin:
    """Both halves as the hub has them, each with its `$version`."""

    desired: Mapping[str, Any]
    reported: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MethodAnswer:
    """A direct method's answer: an HTTP-like status and a JSON payload."""

    status: int
    payload: Mapping[str, Any]


HintCallback = Callable[[int | None], None]
"""Called on the owner's loop when desired properties may have changed, with their `$version` if it is known."""

MethodCallback = Callable[[str, Any], Awaitable[MethodAnswer]]
"""Called on the owner's loop with a direct method's name and payload; must not raise."""


class ControlPlane(Protocol):
    """One device's connection to a hub. Hints are hints: the twin itself is only what `read_twin` returns.

    Calls raise UnreachableError (try again) or RefusedError (credentials); after either the owner calls `connect`
    again, which begins from scratch. No call takes longer than a few minutes.
    """

    @property
    def connected(self) -> bool:
        """Whether the connection stands as far as is known."""
        ...

    @property
    def reported_limit(self) -> int:
        """The most that the reported half may have now, bytes of JSON."""
        ...

    def listen(self, on_hint: HintCallback, on_method: MethodCallback) -> None:
        """Set the callbacks, once, before `connect`."""
        ...

    async def connect(self) -> None:
        """Connect anew, dropping what was there."""
        ...

    async def read_twin(self) -> Twin:
        """Read the twin now."""
        ...

    async def patch_reported(self, patch: Mapping[str, Any]) -> None:
        """Merge `patch` into the reported half; returns when the hub has it."""
        ...

    async def wait_lost(self) -> str:
        """Return when the connection is lost, with a sentence why; RefusedError if it was taken from this device."""
        ...

    def wire(self) -> tuple[int, int]:
        """Bytes received and sent since this object was made, TCP payload with TLS."""
        ...

    async def close(self) -> None:
        """Disconnect; takes at most two seconds and never raises."""
        ...
