"""A store with three versions of a model, an origin in a thread that counts, and a device that holds two of them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.oneshot import pull
from tests.daemon.fakes import NAME
from tests.support import tiny_models
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

OTHER = "other"
"""A small model beside NAME that nobody touches."""

KIB = 1024


@dataclass(slots=True)
class World:
    """`template` is a data directory with versions 1 and 2 of NAME (2 serves) and version 1 of OTHER; 3 is published.

    `update_bytes`: what version 3 costs a device on version 2.
    """

    shop: Shop
    origin: ScriptedOrigin
    template: Path
    update_bytes: int

    def device(self, root: Path) -> DataDir:
        """A fresh copy of the template at `root`."""
        shutil.copytree(self.template, root, symlinks=True)
        return DataDir(root)


@contextlib.contextmanager
def world(root: Path, size: int) -> Iterator[World]:
    """Versions 1 and 2 are small; 3 brings `size` bytes that don't compress. Made once in `root`, then shared.

    The origin runs in a thread of its own, so that children forked meanwhile find it. Nobody may write to the store.
    """
    root.mkdir(parents=True, exist_ok=True)
    shop = Shop(root)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "ready").exists():
            _make(root, size)
            (root / "ready").touch()
    with serving(shop.path) as origin:
        template = root / "template"
        base = next(item.digest for item in DataDir(template).installed(NAME) if item.version == 2)
        update = max(path.stat().st_size for path in shop.objects("updates") if path.name.startswith(base))
        yield World(shop, origin, template, update)


def noisy_model(version: int, size: int) -> bytes:
    """A small ONNX model that multiplies by `version`, and carries `size` bytes of noise as a constant."""
    noise = np.frombuffer(np.random.default_rng(version).bytes(size), dtype=np.uint8)
    return tiny_models.model_bytes(
        [helper.make_node("Mul", ["X", "factor"], ["y"])],
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.array(version, dtype=np.float32), "factor"),
            numpy_helper.from_array(noise, "noise"),
        ],
    )


def _make(root: Path, size: int) -> None:
    shop = asyncio.run(Shop.open(root))
    _publish(shop, OTHER, tiny_models.scaler(7))
    for version in (1, 2):
        _publish(shop, NAME, noisy_model(version, 1000))
    with serving(shop.path) as origin:
        for name, version in ((NAME, 1), (NAME, 2), (OTHER, 1)):
            pull(name, origin.url, root / "template", shop.trust, None, version, lambda done, total: None)
    _publish(shop, NAME, noisy_model(3, size))


def _publish(shop: Shop, name: str, model: bytes) -> None:
    asyncio.run(shop.publish_bytes(name, model, "model.onnx"))


@contextlib.contextmanager
def serving(store: Path) -> Iterator[ScriptedOrigin]:
    """A ScriptedOrigin on `store` in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    origin = ScriptedOrigin(store)
    asyncio.run_coroutine_threadsafe(origin.__aenter__(), loop).result(30)
    try:
        yield origin
    finally:
        asyncio.run_coroutine_threadsafe(origin.__aexit__(None, None, None), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
