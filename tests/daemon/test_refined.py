"""A device builds what only version 2 of the format holds, exactly and for what was announced."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from bench import kinds
from modelsync_server.publish.verifier import verify
from modelsync_server.store import open_store
from tests.support.pulling import Device
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop


def scalers() -> tuple[str, bytes, bytes]:
    rows = np.random.default_rng(3).normal(2, 1, (300, 400))
    old, new = (pickle.dumps(StandardScaler().fit(rows[:n])) for n in (200, 300))
    return "pkl", old, new


def scattered() -> tuple[str, bytes, bytes]:
    chance = np.random.default_rng(4)
    old = chance.bytes(200_000)
    new = bytearray(old)
    for place in range(3000, 200_000, 9000):
        new[place : place + 3] = chance.bytes(3)
    return "dat", old, bytes(new)


CASES = {"records": lambda: kinds._records(np.random.default_rng(2))["records"], "roots": scalers, "edits": scattered}


@pytest.mark.parametrize("case", CASES)
async def test_what_version_2_holds_is_built_exactly(case: str, tmp_path: Path) -> None:
    suffix, old, new = CASES[case]()
    shop = await Shop.open(tmp_path)
    await shop.publish_bytes("m", old, f"m.{suffix}")
    device = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path, parcels=True) as origin:
        await device.pull("m", origin.url)
        published = await shop.publish_bytes("m", new, f"m.{suffix}")
        updated = await device.pull("m", origin.url)
    assert device.files("m") == {f"m.{suffix}": new}
    assert updated.plan.kind == "update"
    price = published.updates[0]
    assert updated.plan.bytes == price.bytes and price.older_bytes is not None and price.bytes < price.older_bytes
    report = await verify(open_store(str(shop.path)))
    assert not report.problems
