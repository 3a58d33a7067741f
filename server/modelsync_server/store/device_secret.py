"""What a device needs to read a private store. No requests here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class DeviceAccess:
    """The origin for the twin, and for elsewhere the secret: a query (a SAS), or an access key in its JSON form."""

    origin: str
    sas: str
    expires: datetime

    @property
    def payload(self) -> dict[str, Any]:
        """What the direct method `secret` takes. A daemon that knows no keys refuses one, and never sends it on."""
        document: dict[str, Any] = json.loads(self.sas) if self.sas.startswith("{") else {"sas": self.sas}
        return document
