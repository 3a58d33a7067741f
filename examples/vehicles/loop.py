"""Acts of the loop: the first version; drift, seen, and a retrained version that ends it; a worse one, refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import modelsync
from examples.demo.stage import StageError
from examples.stories.cloud import Json
from examples.vehicles import verdict
from examples.vehicles.fleet import Fleet
from examples.vehicles.learning import DRIFTED, MODEL
from examples.vehicles.temperatures import Conditions

UPDATE = "an update of the model, for one vehicle"


async def first(fleet: Fleet) -> None:
    """Version 1 from the bench's winter; then telemetry flows."""
    story = fleet.story
    trained, _ = await asyncio.gather(fleet.retrain("--recent", "120"), fleet.start_vehicles())
    if trained["published"] != 1:
        raise StageError(f"the first training published nothing: {trained.get('why')}")
    story.say(f"version 1: {trained['bytes']:,} bytes of ONNX, {_measures(trained['candidate'])}")
    begin = fleet.cloud.line.counts()
    if await fleet.roll(1, "everybody:*") is not None:
        raise StageError("version 1 did not reach the fleet")
    fleet.mark("version 1")
    story.report.figures["vehicles"] = len(fleet.vehicles)
    story.report.figures["first install, bytes a vehicle"] = fleet.cloud.spent(begin) // len(fleet.vehicles)
    await fleet.windows_at(2 * len(fleet.vehicles))
    story.promise(
        "telemetry flows from every vehicle into the lake",
        {each.vehicle for each in verdict.judged(fleet.lake)} == set(fleet.vehicles),
        f"{fleet.windows()} windows of {len(fleet.vehicles)} vehicles, in {len(fleet.lake.commits())} commits",
    )


async def around(
    fleet: Fleet, what: str, conditions: Conditions, version: int, roll: Callable[[int], Awaitable[bool]]
) -> None:
    """Once around: drift, the alert, a retrained version, `roll` that brings it to the fleet."""
    story = fleet.story
    await fleet.drifted(False)
    before = fleet.windows()
    fleet.mark(what)
    conditions.write(fleet.conditions)
    score = await fleet.drifted(True)
    fleet.mark("the alert fires")
    where = "in Prometheus" if fleet.prometheus else "in the monitor's metrics"
    story.promise(f"drift is seen {where} ({what})", score > DRIFTED, f"population stability index {score:.2f}")
    await fleet.windows_at(before + fleet.size.recent + 2 * len(fleet.vehicles))
    missed = fleet.judged()[before:]
    trained = await fleet.retrain()
    candidate, field = trained["candidate"], trained.get("field", {})
    better = trained["published"] == version and candidate["balanced_accuracy"] > field["balanced_accuracy"]
    story.promise(
        f"a retrained version is published because it is better (version {version})",
        better,
        f"{_measures(candidate)}; version {field.get('version')} in the field: {_measures(field)}; "
        + str(trained.get("why")),
    )
    if not better:
        raise StageError(f"version {version} was not published")
    begin, hub = fleet.cloud.line.counts(), fleet.on_hub_line()
    fleet.mark(f"rollout of version {version}")
    through = await roll(version)
    spent = fleet.cloud.spent(begin) // len(fleet.vehicles)
    on_hub = (fleet.on_hub_line() - hub) // len(fleet.vehicles)
    serving = await fleet.serving()
    story.promise(
        f"version {version} goes through the rings, and the vehicles report it",
        through and set(serving.values()) == {version},
        f"{list(serving.values()).count(version)} of {len(serving)} vehicles report it as active",
    )
    fleet.mark(f"version {version} serves")
    since = fleet.windows()
    fleet.spent.append((version, spent, on_hub))
    score = await fleet.drifted(False)
    fleet.mark("the alert is silent")
    await fleet.windows_at(since + fleet.size.watched + 2 * len(fleet.vehicles))
    after = fleet.judged()[since:]
    then, now = verdict.share_found(missed), verdict.share_found(after)
    story.promise(
        f"the retrained version ends it (version {version})",
        score < DRIFTED and now > then,
        f"index {score:.2f}; of the faults in the field {then:.0%} were found before, {now:.0%} are now",
    )
    story.report.figures |= {
        f"the update to version {version} itself, bytes": trained.get("update_bytes"),
        f"faults found in the field before version {version}, per cent": round(100 * then),
        f"faults found in the field with version {version}, per cent": round(100 * now),
    }


async def worse(fleet: Fleet, as_of: int) -> None:
    """The job trains on the lake as it was before the drift, as from a stale copy: nothing comes of it."""
    story = fleet.story
    before = await _versions(fleet)
    trained = await fleet.retrain("--as-of", str(as_of))
    story.promise(
        "a candidate that is not better is not published",
        trained["published"] is None and "field" in trained and await _versions(fleet) == before,
        str(trained.get("why")),
    )


async def _versions(fleet: Fleet) -> list[int]:
    models = await asyncio.to_thread(modelsync.open_store(fleet.cloud.store).models)
    return [each.version for model in models if model.name == MODEL for each in model.versions]


def _measures(measures: Json) -> str:
    if not measures:
        return "nothing"
    return (
        f"finds {measures['faults_found']:.0%} of the faults, takes {measures['false_alarms']:.1%} of the others for "
        f"faults (balanced accuracy {measures['balanced_accuracy']:.3f})"
    )
