"""The story's original ways: the model in the scoring module's container image, and the zip downloaded whole."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import aiohttp
import numpy
import onnxruntime
from aiohttp import web

from examples.camera.cluster import Cluster
from examples.camera.exports import HERE, ONNX, export
from examples.camera.updates import WHAT
from examples.demo.relay import Relay
from examples.stories.image import Recipe, Registry, build


async def bill(cluster: Cluster) -> None:
    """Do what the story did, both ways; add what was measured to the bill."""
    await images(cluster)
    await whole_zip(cluster)
    story = cluster.story
    charges = [charge for charge in story.report.bill if charge.what == WHAT]
    ours = next(charge.bytes for charge in charges if charge.way.startswith("modelsync"))
    others = [charge for charge in charges if not charge.way.startswith("modelsync")]
    story.promise(
        "an update costs less than each of the story's ways",
        all(ours < charge.bytes for charge in others),
        f"{ours:,} bytes against " + ", ".join(f"{charge.bytes:,} ({charge.way})" for charge in others),
    )


async def images(cluster: Cluster) -> None:
    """Build, serve and pull an image for each version."""
    story = cluster.story
    work = story.work / "images"
    model, libraries = work / "app", work / "packages"
    model.mkdir(parents=True)
    libraries.mkdir()
    for package in [] if story.short else [numpy, onnxruntime]:
        assert package.__file__ is not None
        origin = Path(package.__file__).parent
        shutil.copytree(origin, libraries / origin.name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    recipe = Recipe([(libraries, "usr/lib/python3/dist-packages"), (model, "app")])

    async def made(version: int, tag: str, kept: int) -> Path:
        for name in ("model.onnx", "labels.txt"):
            shutil.copyfile(HERE / f"v{version}" / name, model / name)
        return await asyncio.to_thread(build, recipe, work, tag, day=version, kept=kept)

    async with Registry() as registry:
        registry.push(await made(1, "v1", 1), "v1")
        registry.push(await made(2, "v2", 1), "v2")
        story.report.figures["first install of the image, bytes"] = await registry.pull("v1", work / "device")
        cached = await registry.pull("v2", work / "device")
        if not story.short:
            registry.push(await made(2, "v2-anew", 0), "v2-anew")
            anew = await registry.pull("v2-anew", work / "device")
            story.charge("image, built anew on a clean machine", WHAT, anew, "registry's line, both directions")
        story.charge("image, libraries from the build cache", WHAT, cached, "registry's line, both directions")


async def whole_zip(cluster: Cluster) -> None:
    """A node downloads the export whole, from a plain web server through a relay that counts."""
    data = export(2, ONNX)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=data, content_type="application/zip")

    application = web.Application()
    application.router.add_get("/export.zip", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Relay("127.0.0.1", runner.addresses[0][1]) as line, aiohttp.ClientSession() as session:
        begin = line.counts()
        async with session.get(f"http://127.0.0.1:{line.port}/export.zip") as found:
            assert await found.read() == data
        spent = line.counts() - begin
    await runner.cleanup()
    cluster.story.charge(
        "the zip, downloaded whole", WHAT, spent.up + spent.down, "a web server's line, both directions"
    )
