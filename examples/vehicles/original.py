"""The story's original ways, run: the image built anew and pulled, and the new model copied onto the old image."""

from __future__ import annotations

import asyncio
import shutil
from importlib.util import find_spec
from pathlib import Path

from examples.stories.image import Recipe, Registry, build
from examples.vehicles.fleet import Fleet
from examples.vehicles.loop import UPDATE

VEHICLES = 100_000
DOLLARS_A_GB = 25.0
"""The story's own: 60 MB to 100,000 vehicles were $150,000, so $0.025 a MB."""


async def pulls(fleet: Fleet, old: int, new: int) -> None:
    """Build, serve and pull images of two versions of the run; add the bytes to the bill."""
    story = fleet.story
    work = story.work / "images"
    model, libraries = work / "app", work / "packages"
    model.mkdir(parents=True)
    libraries.mkdir()
    for package in () if story.short else ("numpy", "scipy", "sklearn"):
        found = find_spec(package)
        assert found is not None and found.submodule_search_locations
        origin = Path(found.submodule_search_locations[0])
        for folder in (origin, origin.with_name(f"{origin.name}.libs")):
            if folder.is_dir():
                skipped = shutil.ignore_patterns("__pycache__", "tests")
                await asyncio.to_thread(shutil.copytree, folder, libraries / folder.name, ignore=skipped)
    recipe = Recipe([(libraries, "usr/lib/python3/dist-packages"), (model, "app")])

    async def made(version: int, tag: str, kept: int) -> Path:
        shutil.copyfile(fleet.models / f"v{version}" / "model.onnx", model / "model.onnx")
        return await asyncio.to_thread(build, recipe, work, tag, day=version, kept=kept)

    where = "registry's line, both directions, without TLS"
    async with Registry() as registry:
        registry.push(await made(old, "old", 1), "old")
        registry.push(await made(new, "trick", 1), "trick")
        story.report.figures["first install of the image, bytes"] = await registry.pull("old", work / "vehicle")
        trick = await registry.pull("trick", work / "vehicle")
        if not story.short:
            registry.push(await made(new, "anew", 0), "anew")
            anew = await registry.pull("anew", work / "vehicle")
            story.charge("image, built anew", UPDATE, anew, where)
        story.charge("the copy trick: the whole file as a layer on the old image", UPDATE, trick, where)
    shutil.rmtree(work)


def bill(fleet: Fleet, version: int) -> None:
    """Add the rollouts to the bill, compare that of `version` with the images of the same version, and say dollars."""
    story = fleet.story
    others = [charge.bytes for charge in story.report.bill if charge.what == UPDATE]
    for number, spent, on_hub in fleet.spent:
        way = f"modelsync, signed, version {number}"
        story.charge(way, UPDATE, spent, "origin's line, both directions, with TLS; a vehicle's share")
        if on_hub > 0:
            way += ", with wish and reports"
            where = "the same, and the daemons' connections to the hub by the kernel's count"
            story.charge(way, UPDATE, spent + on_hub, where)
    spent = next(each[1] for each in fleet.spent if each[0] == version)
    story.promise(
        "an update costs what the model costs, not what its image does",
        spent < 2 * min(others) and (story.short or 1000 * spent < max(others)),
        f"{spent:,} bytes, signed and over TLS, against {' and '.join(f'{each:,}' for each in others)}",
    )
    for charge in (each for each in story.report.bill if each.what == UPDATE):
        story.report.figures[f"$ a month for {VEHICLES:,} vehicles, an update each: {charge.way}"] = round(
            dollars(charge.bytes), 2
        )


def dollars(count: int) -> float:
    """What `count` bytes to each of VEHICLES cost. Arithmetic, not a measurement."""
    return count * VEHICLES / 1e9 * DOLLARS_A_GB
