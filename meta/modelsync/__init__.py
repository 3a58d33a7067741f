"""modelsync's public names under one roof. Importing this imports nothing else: each name comes when it is asked for.

What is installed decides which names there are: `pip install modelsync[publisher]`, `[device]`, `[inference]`,
`[azure]` or `[all]`. A name whose part is missing says which extra brings it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelsync_daemon import hf_hub_download, pull, snapshot_download, status
    from modelsync_inference import HotModel
    from modelsync_server import Release, Store, create_store, open_store

__all__ = [
    "HotModel",
    "Release",
    "Store",
    "create_store",
    "hf_hub_download",
    "open_store",
    "pull",
    "snapshot_download",
    "status",
]

_HOMES = {
    "HotModel": ("modelsync_inference", "inference"),
    "Release": ("modelsync_server", "publisher"),
    "Store": ("modelsync_server", "publisher"),
    "create_store": ("modelsync_server", "publisher"),
    "hf_hub_download": ("modelsync_daemon", "device"),
    "open_store": ("modelsync_server", "publisher"),
    "pull": ("modelsync_daemon", "device"),
    "snapshot_download": ("modelsync_daemon", "device"),
    "status": ("modelsync_daemon", "device"),
}
"""Public name → (package that has it, extra that installs that package)."""


def __getattr__(name: str) -> Any:
    """PEP 562. ImportError: the name's package is not installed; the sentence says what to install."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package, extra = _HOMES[name]
    try:
        home = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # it is installed, but something that it needs is not
        raise ImportError(
            f"modelsync.{name} is in the part for {extra!r}, which is not installed: pip install 'modelsync[{extra}]'.",
            name=package,
        ) from None
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
