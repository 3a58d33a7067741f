"""Whatever a power cut leaves of an update, a publication or a hub's state, it is the old or the new, complete.

The operations are those of the real processes, by strace (recording.py); what a disk may lose of them is in
crashes.py; recovery.py has the real code go on from there and holds it to its promises.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelsync_protocol.errors import ModelsyncError
from tests.daemon.fakes import NAME
from tests.reliability.crashes import Crash, Model, without
from tests.reliability.recording import Op, Recording, Sync, record
from tests.reliability.recovery import check_device, check_hub, check_store
from tests.reliability.world import World, noisy_model
from tests.support.shop import Shop
from tests.support.tools import needs

Check = Callable[[Path, str], None]
SEED = 6


@dataclass(slots=True)
class Scene:
    """What was recorded, and the check of a disk at a path after what had been said on stdout."""

    recording: Recording
    check: Check
    folder: Path

    def explore(self, crashes: Iterator[Crash], limit: int) -> int:
        """Check disks that differ, at most `limit`; how many there were. Raises AssertionError."""
        seen, model = set(), Model(self.recording)
        for crash in crashes:
            disk, said = model.disk(crash), model.said(crash.point)
            key = (disk.digest(), said)
            if key in seen:
                continue
            seen.add(key)
            shutil.rmtree(self.folder, ignore_errors=True)
            disk.write(self.folder)
            try:
                self.check(self.folder, said)
            except (AssertionError, ModelsyncError) as error:
                raise AssertionError(f"{crash}: {error}") from error
            if len(seen) >= limit:
                break
        return len(seen)


@pytest.fixture
def device(small_world: World, tmp_path: Path) -> Scene:
    needs("strace")
    root = tmp_path / "device"
    small_world.device(root)
    command: list[str | Path] = [_tool("modelsyncd"), "pull", NAME, "--json", "--data", root]
    recording = record(root, [*command, "--origin", small_world.origin.url, "--trust", small_world.shop.trust])
    return Scene(recording, lambda path, said: check_device(small_world, path, said), tmp_path / "state")


@pytest.fixture
def store(tmp_path: Path) -> Scene:
    needs("strace")
    shop, after = Shop(tmp_path), Shop(tmp_path / "after")
    asyncio.run(Shop.open(tmp_path))
    asyncio.run(shop.publish_bytes(NAME, noisy_model(1, 3000), "model.onnx"))
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(noisy_model(2, 3000))
    recording = record(
        shop.path, [_tool("modelsync"), "publish", shop.path, NAME, artifact, "--keys", shop.keys, "--json"]
    )
    after.keys = shop.keys
    return Scene(recording, lambda path, said: check_store(after, artifact, said), after.path)


@pytest.fixture
def hub(tmp_path: Path) -> Scene:
    needs("strace")
    root = tmp_path / "hub"
    root.mkdir()
    return Scene(record(root, [sys.executable, "-m", "tests.reliability.hub_steps", root]), check_hub, tmp_path / "at")


@pytest.mark.parametrize(("scene", "disks"), [("device", 40), ("store", 15), ("hub", 100)])
def test_a_crash_leaves_the_old_or_the_new(scene: str, disks: int, request: pytest.FixtureRequest) -> None:
    made: Scene = request.getfixturevalue(scene)
    assert made.explore(Model(made.recording).sampled(SEED), disks) == disks


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("scene", "disks"), [("device", 1500), ("store", 400), ("hub", 1500)])
def test_many_crashes_leave_the_old_or_the_new(scene: str, disks: int, request: pytest.FixtureRequest) -> None:
    made: Scene = request.getfixturevalue(scene)
    model = Model(made.recording)
    made.explore(model.exhaustive(), disks)
    made.explore(itertools.islice(model.sampled(SEED + 1), disks), disks)


def _file_of(recording: Recording, part: str) -> set[int]:
    """Nodes of files that ever bore a name with `part` in it."""
    named = {op.node for op in recording.ops if hasattr(op, "node") and part in getattr(op, "name", "")}
    return named | {child for node in recording.nodes for name, child in node.entries.items() if part in name}


REMOVALS: dict[str, tuple[str, Callable[[Recording], Callable[[Op], bool]]]] = {
    "fsync of a small file before its rename": ("device", lambda r: _is_sync(r, ".modelsync-")),
    "fsync of a folder after a rename in it": ("device", lambda r: lambda op: isinstance(op, Sync) and op.folder),
    "fsync of a model's files before they are moved into place": ("device", lambda r: _is_sync(r, "model.onnx")),
    "fdatasync before the journal counts bytes": ("device", lambda r: _is_first_sync(r, "model.onnx")),
    "fsync of a half-built version's folders before the journal counts bytes": (
        "device",
        lambda r: _is_sync(r, "tree"),
    ),
    "fsync of an object before it gets its name": ("store", lambda r: _is_sync(r, ".tmp-")),
    "fsync of a store's folder": ("store", lambda r: lambda op: isinstance(op, Sync) and op.folder),
    "fsync of the hub's certificates": ("hub", lambda r: _is_sync(r, ".tmp-")),
    "fsync of the hub's folder": ("hub", lambda r: lambda op: isinstance(op, Sync) and op.folder),
    "synchronous=FULL of the hub's database": ("hub", lambda r: _is_sync(r, "hub.db-wal")),
}
"""Durable steps of the product, and which recorded operations would be missing without them."""


def _is_sync(recording: Recording, part: str) -> Callable[[Op], bool]:
    nodes = _file_of(recording, part)
    return lambda op: isinstance(op, Sync) and op.node in nodes


def _is_first_sync(recording: Recording, part: str) -> Callable[[Op], bool]:
    first = next(op for op in recording.ops if _is_sync(recording, part)(op))
    return lambda op: op is first


@pytest.mark.parametrize(
    "step",
    [pytest.param(step, marks=() if scene == "hub" else pytest.mark.long) for step, (scene, _) in REMOVALS.items()],
)
@pytest.mark.timeout(600)
def test_without_a_durable_step_a_crash_breaks_a_promise(step: str, request: pytest.FixtureRequest) -> None:
    scene, removal = REMOVALS[step]
    made: Scene = request.getfixturevalue(scene)
    made.recording = without(made.recording, removal(made.recording))
    model = Model(made.recording)
    with pytest.raises(AssertionError):
        made.explore(itertools.chain(itertools.islice(model.sampled(SEED), 300), model.exhaustive()), 1000)


def _tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)
