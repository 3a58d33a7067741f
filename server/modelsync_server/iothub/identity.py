"""Who talks: a device or a module of a device, and how the two are written in paths, topics and client ids. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from modelsync_protocol.errors import UsageError

_ID = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@$']{1,128}")
"""IoT Hub's alphabet for device and module ids, without ';' which would break connection strings."""


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """A device (`module` is None) or one of its modules."""

    device: str
    module: str | None = None

    def __post_init__(self) -> None:
        for name in (self.device, *([] if self.module is None else [self.module])):
            if not _ID.fullmatch(name):
                raise UsageError(
                    f"{name!r:.140} is not a device or module id: use 1 to 128 ASCII letters, digits and "
                    "-:.+%_#*?!(),=@$'."
                )

    @property
    def client_id(self) -> str:
        """MQTT client id: `device` or `device/module`."""
        return self.device if self.module is None else f"{self.device}/{self.module}"

    @property
    def resource(self) -> str:
        """Resource path of SAS tokens and REST: `devices/D[/modules/M]`."""
        return f"devices/{self.device}" + ("" if self.module is None else f"/modules/{self.module}")

    @property
    def url_path(self) -> str:
        """Path below `/devices/` and `/twins/`, percent-encoded."""
        device = quote(self.device, safe="")
        return device if self.module is None else f"{device}/modules/{quote(self.module, safe='')}"

    def __str__(self) -> str:
        return self.client_id


def from_client_id(text: str) -> Identity:
    """Parse an MQTT client id; raise UsageError if it names neither a device nor a module."""
    device, slash, module = text.partition("/")
    return Identity(device, module if slash else None)
