"""The training job: reads the lake, fits, compares with the version in the field on windows that neither has seen, and
publishes only what is better.

It prints {"published": version or null, "why", "candidate": measures, "field": {"version", measures}, "update_bytes"}.
A candidate that is not better is no error: nothing is published, and the job ends with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import modelsync
from examples import probes
from examples.vehicles import learning
from examples.vehicles.lake import Commit, Lake, in_a_sentence
from examples.vehicles.learning import MODEL, Labelled
from modelsync_protocol.errors import ModelsyncError
from modelsync_server.iothub.connection_string import parse_service
from modelsync_server.iothub.service_client import ServiceClient

HELD_OUT = 3
"""Of the newest windows each third is held out."""

_MARGIN = 0.01
_LEAST = 60


def windows(lake: Lake, commits: Sequence[Commit] | None = None) -> list[dict[str, Any]]:
    """Windows with what the workshop found, oldest first; those that it has not seen yet are left out.

    A window counts once: a vehicle that sends one again under other ids does not outweigh the others by it.
    """
    found = {
        (each["vehicle"], each["window"]): each["faulty"]
        for each in lake.read("inspections", None, commits).to_pylist()
    }
    rows = lake.read("readings", ["seq", "vehicle", "window", "readings"], commits).to_pylist()
    known: dict[tuple[str, int], dict[str, Any]] = {}
    for each in sorted(rows, key=lambda each: int(each["seq"])):
        if (key := (each["vehicle"], each["window"])) in found:
            known.setdefault(key, each | {"faulty": found[key]})
    return list(known.values())


def labelled(rows: Sequence[dict[str, Any]]) -> Labelled:
    """Those windows, a row for each sensor."""
    if not rows:
        return Labelled(np.zeros((0, 1), np.float32), np.zeros(0, np.int64))
    return Labelled(
        learning.samples([each["readings"] for each in rows]), np.array([each["faulty"] for each in rows]).ravel()
    )


def split(rows: Sequence[dict[str, Any]], recent: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(to train on, held out): each third of the `recent` newest is held out, by the window's number alone."""
    newest = rows[-recent:]
    held_out = [each for each in newest if each["window"] % HELD_OUT == 0]
    return [*rows[:-recent], *(each for each in newest if each["window"] % HELD_OUT)], held_out


async def in_the_field(service: str) -> int | None:
    """The version that most devices serve; None if there is none."""
    counts: Counter[int] = Counter()
    async with ServiceClient(parse_service(service)) as client:
        async for twin in client.query("SELECT * FROM devices"):
            told = twin["properties"]["reported"].get("modelsync", {}).get("models", {}).get(MODEL, {})
            if isinstance(told.get("version"), int):
                counts[told["version"]] += 1
    return counts.most_common(1)[0][0] if counts else None


def newest(store: str) -> int | None:
    """The newest published version; None if there is none. So that a gate is kept though no device says anything."""
    try:
        return modelsync.open_store(store).show(MODEL, digests=False).version.version
    except ModelsyncError:
        return None


def fetched(given: argparse.Namespace, version: int, folder: Path) -> bytes:
    """The very bytes of a version, fetched and proved as a device does."""
    data = folder / "field"
    modelsync.pull(MODEL, given.origin, data, trust=given.trust, version=version, ca=given.origin_ca)
    return (data / "models" / MODEL / "current" / "model.onnx").read_bytes()


def publish(
    given: argparse.Namespace, model: bytes, seen: Labelled, metadata: dict[str, Any], folder: Path
) -> modelsync.Release:
    """Publish with metrics, the reference for drift, and a probe of four windows."""
    path, probe = folder / "model.onnx", folder / "probe.json"
    path.write_bytes(model)
    chosen = np.hstack([np.flatnonzero(seen.faulty == fault)[:2] for fault in (0, 1)])
    probe.write_bytes(probes.record(path, [{"X": seen.samples[at : at + 1]} for at in chosen], "0.001"))
    store = modelsync.open_store(given.store, keys=given.keys)
    release = store.publish(MODEL, path, probe=probe, metadata=metadata)
    if given.keep is not None:
        kept = given.keep / f"v{release.version}"
        kept.mkdir(parents=True, exist_ok=True)
        for each in (path, probe):
            shutil.copy(each, kept)
    return release


def work(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything; the document that is printed."""
    lake = Lake(given.lake)
    commits = lake.commits()
    train, held_out = split(windows(lake, commits), given.recent)
    if given.as_of is not None:
        train = windows(lake, [each for each in commits if each.number <= given.as_of])
    seen, judged = labelled(train), labelled(held_out)
    if len(seen) < _LEAST or len(judged) < _LEAST or len(set(judged.faulty.tolist())) < 2:
        return {"published": None, "why": f"only {len(seen)} windows to train on and {len(judged)} to judge by"}
    candidate = learning.fit(seen)
    measures = learning.evaluate(candidate, judged)
    document: dict[str, Any] = {
        "published": None,
        "trained_on": len(seen),
        "bytes": len(candidate),
        "candidate": measures,
    }
    version = asyncio.run(in_the_field(given.service)) or newest(given.store)
    if version is not None:
        field = learning.evaluate(fetched(given, version, folder), judged)
        document["field"] = {"version": version, **field}
        gain = measures["balanced_accuracy"] - field["balanced_accuracy"]
        if not gain >= given.margin:
            document["why"] = (
                f"its balanced accuracy is {measures['balanced_accuracy']:.3f}; version {version} in the field has "
                f"{field['balanced_accuracy']:.3f}, and at least {given.margin:g} more is asked"
            )
            return document
    metadata = {
        "metrics": {key: measures[key] for key in ("balanced_accuracy", "faults_found", "false_alarms")},
        "lake_commit": commits[-1].number,
        "drift_reference": learning.reference(judged.samples),
    }
    release = publish(given, candidate, judged, metadata, folder)
    document["published"] = release.version
    document["update_bytes"] = next((update.bytes for update in release.updates if update.base == version), None)
    document["why"] = "nothing was in the field" if version is None else f"it is better by {gain:.3f}"
    return document


def main() -> None:
    """`python -m examples.vehicles.retrain`."""
    parser = argparse.ArgumentParser(description="Retrains, and publishes if it is better.")
    parser.add_argument("--lake", type=Path, required=True, help="the lake's folder")
    parser.add_argument("--store", required=True, help="where to publish")
    parser.add_argument("--keys", required=True, help="folder of the publisher's keys")
    parser.add_argument("--service", required=True, help="the hub's service connection string")
    parser.add_argument("--origin", required=True, help="where versions are fetched from")
    parser.add_argument("--origin-ca", type=Path, help="PEM to check the origin against")
    parser.add_argument("--trust", type=Path, required=True, help="the store's root.json")
    parser.add_argument(
        "--recent", type=int, required=True, help="so many newest windows are judged by, and held out in part"
    )
    parser.add_argument("--as-of", type=int, help="train on the lake as it was at this commit")
    parser.add_argument("--margin", type=float, default=_MARGIN, help="so much better it has to be (balanced accuracy)")
    parser.add_argument("--keep", type=Path, help="folder in which vN/model.onnx and vN/probe.json are left as well")
    given = parser.parse_args()
    with in_a_sentence(), tempfile.TemporaryDirectory(prefix="retrain-") as folder:
        json.dump(work(given, Path(folder)), sys.stdout)


if __name__ == "__main__":
    main()
