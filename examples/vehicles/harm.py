"""Acts about harm: killed modules, a line that breaks in mid-update, a full disk, a model that must not serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from examples.stories import faults
from examples.vehicles import verdict
from examples.vehicles.fleet import Fleet
from examples.vehicles.learning import MODEL
from examples.vehicles.vehicle import Vehicle

DISK = 24_000_000
"""Bytes of the disk of the vehicle whose disk will be full."""
_CUT_BYTES, _AWAY_SECONDS = 2600, 2.0
"""In the midst of what comes down: behind trust metadata, within the update itself."""


async def killed(fleet: Fleet, name: str) -> None:
    """Kill -9 of both modules of a vehicle, and of the landing job, at once: every window is scored and lands."""
    story, vehicle = fleet.story, fleet.vehicles[name]
    running = {f"{module} of {name}": vehicle.modules[module] for module in vehicle.modules} | {
        "the landing job": fleet.landing
    }
    fleet.mark("kill -9")
    restarts = {what: module.restarts for what, module in running.items()}
    sent = vehicle.place()["sent"]
    await asyncio.gather(*(module.kill() for module in running.values()))

    def back() -> bool:
        again = all(module.restarts > restarts[what] for what, module in running.items())
        return again and vehicle.place()["scored"] > sent + 2

    await story.until("windows scored after the kill", _asked(back))
    last = vehicle.place()["sent"]

    def landed() -> bool:
        return verdict.last_window(fleet.lake, name) >= last

    await story.until("windows landed after the kill", _asked(landed))
    lost = [each for each in verdict.not_once(fleet.lake) if each.startswith(name)]
    story.promise(
        f"kill -9 of {', '.join(running)}: every window is scored, and is in the lake once",
        not lost,
        f"windows {sent} to {last}: {len(lost)} lacking or there twice",
    )


async def rough_rollout(fleet: Fleet, version: int, before: int) -> bool:
    """A rollout from version `before`; the line to the origin breaks in mid-update, the last vehicle's disk is full."""
    story, cloud = fleet.story, fleet.cloud
    last = list(fleet.vehicles.values())[-1]
    ballast = faults.fill(last.data, leave=16_384) if last.name in fleet.small_disks else None
    accepted = len(cloud.line.connections)
    cloud.line.cut_after(_CUT_BYTES, refuse=True)
    rollout = asyncio.create_task(fleet.roll(version))
    try:
        await story.until("the cut of the line to the origin", _asked(lambda: cloud.line.refusing))
        fleet.mark("line cut")
        canary = next(iter(fleet.vehicles))
        scored = fleet.vehicles[canary].place()["scored"]
        await asyncio.sleep(_AWAY_SECONDS)
        during = await cloud.reported(canary, MODEL)
        await story.until(
            "scoring beside a broken line", _asked(lambda: fleet.vehicles[canary].place()["scored"] > scored)
        )
        cloud.line.restore()
        fleet.mark("line restored")
        active = await cloud.serving(canary, MODEL, version)
        after = sum(each.carried["down"] for each in cloud.line.connections[accepted:]) - _CUT_BYTES
        story.promise(
            "a line that breaks in mid-update: the old version serves meanwhile, and the update goes on",
            during.get("version") == before and active["version"] == version,
            f"cut after {_CUT_BYTES:,} bytes for {_AWAY_SECONDS:g} s, version {during.get('version')} scored on; "
            f"then version {active['version']} by {after:,} bytes more",
        )
        if ballast is not None:
            await _full_disk(fleet, last, version, ballast)
        return await rollout is None
    finally:
        rollout.cancel()


async def _full_disk(fleet: Fleet, vehicle: Vehicle, version: int, ballast: Path) -> None:
    """The vehicle says that it waits for room, scores on, and takes the version when there is room."""
    story = fleet.story

    async def waits() -> bool:
        return (await fleet.cloud.reported(vehicle.name, MODEL)).get("state") == "waiting"

    await story.until(f"{vehicle.name} to say that its disk is full", waits)
    said = await fleet.cloud.reported(vehicle.name, MODEL)
    scored = vehicle.place()["scored"]
    await story.until("scoring beside a full disk", _asked(lambda: vehicle.place()["scored"] > scored))
    ballast.unlink()
    active = await fleet.cloud.serving(vehicle.name, MODEL, version)
    why = str((said.get("error") or {}).get("text") or said.get("reason") or said.get("waiting") or "it waits")
    story.promise(
        "a full disk: the version waits, the one before goes on scoring, and the update comes when there is room",
        active["version"] == version,
        why,
    )


async def broken(fleet: Fleet, good: int) -> None:
    """A broken model is published by hand, past the job: its probe refuses it in the canary."""
    story, cloud = fleet.story, fleet.cloud
    folder = fleet.models / f"v{good}"
    artifact = story.work / "broken" / "model.onnx"
    artifact.parent.mkdir(exist_ok=True)
    artifact.write_bytes(inverted(folder / "model.onnx"))
    published = await cloud.publish(MODEL, artifact, "--probe", str(folder / "probe.json"))
    version = int(published["version"])
    fleet.mark(f"version {version}, broken")
    status = await fleet.roll(version)
    others = [each.name for each in fleet.vehicles.values() if each.ring != "canary"]
    wishes = [await _wish(fleet, name) for name in others]
    canary = next(iter(fleet.vehicles))

    async def back() -> bool:
        told = await cloud.reported(canary, MODEL)
        return told.get("version") == good and await _wish(fleet, canary) != version

    await story.until(f"version {good} in the canary again", back)
    await cloud.modelsync("rollout", "abort", MODEL, "--yes", "--by", "ada")
    story.promise(
        "a broken model is refused by its probe in the canary, which is rolled back; no other ring hears of it",
        status is not None and version not in wishes,
        status.record.why if status is not None else "it went through",
    )


async def _wish(fleet: Fleet, name: str) -> int | None:
    twin = await fleet.cloud.service.twin(name)
    models = twin["properties"]["desired"].get("modelsync", {}).get("models", {})
    found = models.get(MODEL, {}).get("version")
    return found if isinstance(found, int) else None


def inverted(good: Path) -> bytes:
    """Well-formed, and its answers are the wrong way round: what labels in the wrong order make."""
    import onnx

    made = onnx.load(good)
    changed = False
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("coefficients", "intercepts"):
                attribute.floats[:] = [-value for value in attribute.floats]
                changed = True
    if not changed:
        raise ValueError("the model has no linear classifier")
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def _asked(test: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return test()

    return asked
