"""A kill anywhere while a compressed model is built: the next attempt gives its bytes and fetches no payload twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.build import pipeline, plain_views, target_tree
from modelsync_daemon.build.plan_executor import Executor
from modelsync_daemon.transfer.range_body import Body
from modelsync_protocol.plain import recipes
from tests.reliability.world import KIB, serving
from tests.support import packed_models
from tests.support.pulling import Device
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

_PAYLOADS = 512 * KIB
_FILE = "model.npz"


@dataclass(frozen=True, slots=True)
class Packed:
    """A device's folder that holds version 1, the origin with version 2, and that version's bytes."""

    shop: Shop
    origin: ScriptedOrigin
    template: Path
    new: bytes
    update_bytes: int


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packed]:
    """Two versions of about 2 MB."""
    root = tmp_path_factory.mktemp("packed")
    shop = asyncio.run(Shop.open(root))
    old, new = (packed_models.npz(packed_models.weights(5, step, rows=1000)) for step in (0.0, 1e-3))
    asyncio.run(shop.publish_bytes("m", old, _FILE))
    with serving(shop.path) as origin:
        asyncio.run(Device(root / "device", shop.trust).pull("m", origin.url))
        published = asyncio.run(shop.publish_bytes("m", new, _FILE))
        yield Packed(shop, origin, root / "device", new, published.updates[0].bytes)


KILLS: dict[str, tuple[Any, str, int]] = {
    "unpacking begins": (plain_views, "_unpacked", 1),
    "half of the base is unpacked": (plain_views, "_unpacked", 3),
    "the first payload is fetched": (Body, "read", 3),
    "some payloads are fetched": (Body, "read", 6),
    "plain bytes are written": (plain_views.ViewedTarget, "write", 3),
    "the journal advances": (plain_views.ViewedTarget, "sync", 2),
    "packing begins": (plain_views.ViewedTarget, "pack", 1),
    "half of the target is packed": (recipes, "pack", 3),
    "verification begins": (pipeline._Job, "_verify", 1),
    "the tree moves into place": (target_tree.Assembly, "finish", 1),
    "the last step is recorded": (Executor, "_record", 2),
}
"""Moment → function of the product, and the call of it at which the process is killed."""


def _killing(original: Callable[..., Any], call: int) -> Callable[..., Any]:
    calls = 0

    def dying(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **more)

    return dying


@pytest.mark.parametrize("moment", KILLS)
def test_a_kill_costs_no_payload_twice(packed: Packed, tmp_path: Path, moment: str) -> None:
    owner, name, call = KILLS[moment]
    shutil.copytree(packed.template, tmp_path / "device", symlinks=True)
    device = Device(tmp_path / "device", packed.shop.trust)
    before = packed.origin.object_bytes()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            setattr(owner, name, _killing(getattr(owner, name), call))
            asyncio.run(device.pull("m", packed.origin.url))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "the moment was never reached"
    first = packed.origin.object_bytes() - before

    again = asyncio.run(device.pull("m", packed.origin.url))
    assert device.files("m") == {_FILE: packed.new}
    assert again.plan.kind == "update"
    assert packed.origin.object_bytes() - before <= packed.update_bytes + min(first, _PAYLOADS)
    assert device.leftovers() in ([], [str(device.data.root / "incoming" / "m")])
