"""modelsync's on-device daemon: follows the twin, fetches what is missing, proves it and activates it.

Without a hub, from a program on the device:

    from modelsync_daemon import pull, status

    pulled = pull("anomaly", "https://models.example", "/var/lib/modelsync", trust="root.json")
    print(pulled.version, pulled.path, pulled.bytes)
    print(status("/var/lib/modelsync").models["anomaly"].state)

Errors are modelsync_protocol.errors. The names below are public; they are loaded when they are asked for, so that
importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelsync_daemon.api import pull, status
    from modelsync_daemon.hub_download import hf_hub_download, snapshot_download
    from modelsync_daemon.results import ModelStatus, Pulled, Status

__all__ = ["ModelStatus", "Pulled", "Status", "hf_hub_download", "pull", "snapshot_download", "status"]

_WHERE = {
    "ModelStatus": "results",
    "Pulled": "results",
    "Status": "results",
    "hf_hub_download": "hub_download",
    "pull": "api",
    "snapshot_download": "hub_download",
    "status": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
