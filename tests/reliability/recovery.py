"""After a crash: is what lies on the disk the old or the new, complete, and does the real code go on from it?

Each function raises AssertionError with what is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.oneshot import pull
from modelsync_protocol.errors import ModelsyncError
from modelsync_server.publish.verifier import verify
from modelsync_server.store import open_store
from modelsync_server.trust import read_catalogue
from tests.daemon.fakes import NAME
from tests.reliability.hub_steps import DEVICE
from tests.reliability.promises import check_no_garbage, check_serves, check_settled
from tests.reliability.world import OTHER, World
from tests.support.shop import Shop


def check_device(world: World, root: Path, said: str) -> None:
    """An update from version 2 to 3 was under way: either serves, complete; the next pull ends in 3 and cleans up."""
    data = DataDir(root)
    check_serves(data, OTHER)
    serving = check_serves(data, NAME).version
    assert serving == 3 or (serving == 2 and '"version": 3' not in said), f"version {serving} serves after {said!r}"
    journaled, spent = _journaled(data), world.origin.object_bytes()
    try:
        pull(NAME, world.origin.url, root, world.shop.trust, None, 3, lambda done, total: None)
    except ModelsyncError as error:
        raise AssertionError(f"the next pull fails: {error}") from error
    spent = world.origin.object_bytes() - spent
    assert spent <= world.update_bytes - journaled, f"{spent} bytes fetched although the journal held {journaled}"
    assert check_serves(data, NAME).version == 3
    check_settled(data, NAME)
    check_no_garbage(data)


def _journaled(data: DataDir) -> int:
    """Payload bytes that the journal counts as durable."""
    try:
        with contextlib.closing(sqlite3.connect(data.state_db)) as connection:
            row = connection.execute("SELECT payload_bytes FROM journal WHERE name = ?", (NAME,)).fetchone()
    except sqlite3.Error:
        return 0
    return int(row[0]) if row else 0


def check_store(shop: Shop, artifact: Path, said: str) -> None:
    """Version 2 of NAME was being published: 1 or both are there and sound, and publishing again ends in both."""
    store = open_store(str(shop.path))
    before = asyncio.run(read_catalogue(store)).models[NAME].versions
    assert set(before) == {1, 2} or (set(before) == {1} and "version" not in said), f"{set(before)} after {said!r}"
    problems = asyncio.run(verify(store)).problems
    assert not problems, problems
    try:
        asyncio.run(shop.publish(NAME, artifact))
    except ModelsyncError as error:
        raise AssertionError(f"publishing again fails: {error}") from error
    assert set(asyncio.run(read_catalogue(store)).models[NAME].versions) == {1, 2}
    problems = asyncio.run(verify(store)).problems
    assert not problems, problems


def check_hub(root: Path, said: str) -> None:
    """The hub starts again, and has what it had confirmed: the device with its key, every change of its twin."""
    from modelsync_server.hub import certificates
    from modelsync_server.hub.state import State

    steps = [int(line.removeprefix("step ")) for line in said.splitlines() if line.startswith("step ")]
    ca = (root / "ca.pem").read_bytes() if (root / "ca.pem").exists() else None
    assert ca or "certificates" not in said, "the CA that devices know was lost"
    try:
        certificates.ensure(root, "127.0.0.1").device_context()
        with State(root) as state:
            state.add(DEVICE)
            registration, twin = state.find(DEVICE), state.twin(DEVICE)
            assert registration is not None and twin is not None
            assert "device" not in said or registration.primary_key == "a2V5", "a device's key was lost"
            step = twin.tags.get("step", 0)
            assert step >= max(steps, default=0), f"step {step} is there, {steps} were confirmed"
            assert step == 0 or twin.version == 2 + step, "a twin is neither old nor new"
            filters = state.subscriptions(DEVICE)
            sessions = [
                frozenset({f"topic/{number}"}) for number in (step, step - 1) if number >= max(steps, default=0)
            ]
            assert not steps or filters in sessions, "a session was lost"
    except (ModelsyncError, OSError, ValueError) as error:
        raise AssertionError(f"the hub does not start again: {type(error).__name__}: {error}") from error
    assert "certificates" not in said or (root / "ca.pem").read_bytes() == ca, "the CA that devices know was replaced"
