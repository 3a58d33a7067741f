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
    """Build, serve and pull images of two versions of the run; add the bytes to the bill, and a month's money."""
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
    version, spent = next(each for each in fleet.spent if each[0] == new)
    story.charge(f"modelsync, signed, version {version}", UPDATE, spent, "origin's line, both directions, with TLS")
    bill = [charge for charge in story.report.bill if charge.what == UPDATE]
    story.promise(
        "an update costs less than what the story did before",
        spent < min(charge.bytes for charge in bill if charge.bytes != spent),
        f"{spent:,} bytes, signed and over TLS, against {', '.join(f'{each.bytes:,}' for each in bill[:-1])}",
    )
    for charge in bill:
        story.report.figures[f"$ a month for {VEHICLES:,} vehicles, an update each: {charge.way}"] = round(
            dollars(charge.bytes), 2
        )


def dollars(count: int) -> float:
    """What `count` bytes to each of VEHICLES cost. Arithmetic, not a measurement."""
    return count * VEHICLES / 1e9 * DOLLARS_A_GB
