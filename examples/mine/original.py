"""The story's original way: the model in the scoring service's container image, a layer for each version, pulled."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy
import onnxruntime

from examples.mine.site import HERE, Mine
from examples.stories.image import Recipe, Registry, build

_WHAT = "an update of the model"


async def pulls(mine: Mine) -> None:
    """Build, serve and pull the images of both versions, in both ways; add what was measured to the bill."""
    story = mine.story
    work = story.work / "images"
    model = work / "app"
    model.mkdir(parents=True)
    packages = [] if story.short else [numpy, onnxruntime]
    libraries = work / "packages"
    libraries.mkdir()
    for package in packages:
        assert package.__file__ is not None
        origin = Path(package.__file__).parent
        shutil.copytree(origin, libraries / origin.name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    recipe = Recipe([(libraries, "usr/lib/python3/dist-packages"), (model, "app")])

    async def made(version: int, tag: str, kept: int) -> Path:
        shutil.copyfile(HERE / f"v{version}" / "model.onnx", model / "model.onnx")
        return await asyncio.to_thread(build, recipe, work, tag, day=version, kept=kept)

    async with Registry() as registry:
        registry.push(await made(1, "v1", 1), "v1")
        registry.push(await made(2, "v2", 1), "v2")
        first = await registry.pull("v1", work / "device")
        layer = await registry.pull("v2", work / "device")
        story.report.figures["first install of the image, bytes"] = first
        if not story.short:
            registry.push(await made(2, "v2-anew", 0), "v2-anew")
            anew = await registry.pull("v2-anew", work / "device")
            story.charge("image, built anew on a clean machine", _WHAT, anew, "registry's line, both directions")
        story.charge("image, libraries from the build cache", _WHAT, layer, "registry's line, both directions")
    ours = next(charge.bytes for charge in story.report.bill if charge.way.startswith("modelsync, signed"))
    dearest = max(charge.bytes for charge in story.report.bill if charge.what == _WHAT)
    story.promise(
        "an update costs less than the story's image layers",
        ours < dearest,
        f"{ours:,} bytes, signed and over TLS, against {layer:,} for the model's layer alone, without either"
        + ("" if story.short else f", and {dearest:,} for the image built anew"),
    )
