"""modelsync's publisher: cuts, encodes, signs and serves model artifacts, and a local IoT hub.

From a training script:

    from modelsync_server import create_store, open_store

    create_store("store", keys="keys")                          # once; or `modelsync init store --keys keys`
    store = open_store("store", keys="keys")
    release = store.publish("anomaly", "model.onnx", metadata={"metrics": {"auc": 0.93}, "commit": "4f1c2d9"})
    print(release.version, release.install_bytes)
    for update in release.updates:                              # what devices on older versions will fetch
        print(update.base, update.bytes)
    for hint in release.advice:                                 # what would have been cheaper
        print(hint.text)

    print(store.show("anomaly").metadata["metrics"]["auc"])
    for tensor in store.diff("anomaly", 1, 2).tensors:
        print(tensor.name, tensor.relative_rms, tensor.update_bytes)

In a coroutine the same methods are awaited on `store.aio`:

    release = await store.aio.publish("anomaly", "model.onnx")

Errors are modelsync_protocol.errors. The names below are public; they are loaded when they are asked for, so that
importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelsync_server.library.async_store import AsyncStore, Doctor, Price
    from modelsync_server.library.metadata_sources import from_git
    from modelsync_server.library.store import NewStore, Store, create_store, open_store
    from modelsync_server.publish.advice import Advice
    from modelsync_server.publish.details import FileEntry, Signature, VersionDetails
    from modelsync_server.publish.difference import Change, Difference, FileChange, Need, TensorChange
    from modelsync_server.publish.explain import Explanation, Part
    from modelsync_server.publish.listing import Model, Version
    from modelsync_server.publish.publisher import Release, UpdatePrice
    from modelsync_server.publish.verifier import Report
    from modelsync_server.trust.refreshing import RefreshReport
    from modelsync_server.trust.rotation import KeyUse

__all__ = [
    "Advice",
    "AsyncStore",
    "Change",
    "Difference",
    "Doctor",
    "Explanation",
    "FileChange",
    "FileEntry",
    "KeyUse",
    "Model",
    "Need",
    "NewStore",
    "Part",
    "Price",
    "RefreshReport",
    "Release",
    "Report",
    "Signature",
    "Store",
    "TensorChange",
    "UpdatePrice",
    "Version",
    "VersionDetails",
    "create_store",
    "from_git",
    "open_store",
]

_MODULES = {
    "library.async_store": ("AsyncStore", "Doctor", "Price"),
    "library.metadata_sources": ("from_git",),
    "library.store": ("NewStore", "Store", "create_store", "open_store"),
    "publish.advice": ("Advice",),
    "publish.details": ("FileEntry", "Signature", "VersionDetails"),
    "publish.difference": ("Change", "Difference", "FileChange", "Need", "TensorChange"),
    "publish.explain": ("Explanation", "Part"),
    "publish.listing": ("Model", "Version"),
    "publish.publisher": ("Release", "UpdatePrice"),
    "publish.verifier": ("Report",),
    "trust.refreshing": ("RefreshReport",),
    "trust.rotation": ("KeyUse",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
