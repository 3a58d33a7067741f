"""The story's original ways, run and measured beside ours: an archive, wheels, a container's layers."""

from __future__ import annotations

import asyncio
import tarfile
from pathlib import Path

import aiohttp
from aiohttp import web

from examples.demo.relay import Relay
from examples.environment.acts import BUMP, Play
from examples.environment.kit import pip
from examples.stories.image import Recipe, Registry, build


async def ways(play: Play) -> None:
    """Each way brings environment 2 to a device that has environment 1; the bytes go onto the bill."""
    story, workshop = play.story, play.workshop
    work = story.work / "original"
    served = work / "served"
    served.mkdir(parents=True)
    archive = served / "environment-2.tar.gz"
    await asyncio.to_thread(_pack, workshop.environment(2), archive)
    for wheel in workshop.kit.pinned(2):
        (served / wheel.name).hardlink_to(wheel)
    application = web.Application()
    application.router.add_static("/", served, show_index=True)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with Relay("127.0.0.1", runner.addresses[0][1]) as line:
            await _archive(play, line, archive.name, work / "unpacked")
            if not story.short:
                await _wheels(play, line, work)
    finally:
        await runner.cleanup()
    await _layers(play, work)


def _pack(folder: Path, archive: Path) -> None:
    """As conda-pack and venv-pack do: one compressed archive of everything."""
    with tarfile.open(archive, "w:gz", compresslevel=4) as packed:
        packed.add(folder, ".")


async def _archive(play: Play, line: Relay, name: str, target: Path) -> None:
    begin = line.counts()
    path = target.with_suffix(".tar.gz")
    url = f"http://127.0.0.1:{line.port}/{name}"
    async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(url) as answer:
        path.write_bytes(await answer.read())
    await asyncio.to_thread(_unpack, path, target)
    since = line.counts() - begin
    play.story.charge("packed archive (conda-pack's way)", BUMP, since.up + since.down, "a line, HTTP, both directions")


def _unpack(path: Path, target: Path) -> None:
    with tarfile.open(path) as packed:
        packed.extractall(target, filter="data")


async def _wheels(play: Play, line: Relay, work: Path) -> None:
    kit = play.workshop.kit
    index = ("--no-index", "--find-links", f"http://127.0.0.1:{line.port}/", "--trusted-host", "127.0.0.1")
    quiet = ("download", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps", *index)
    for way, wanted in (
        ("all wheels of the lock", ("--require-hashes", "-r", str(kit.locks[1]))),
        ("the bumped wheel alone, into a changed folder", (f"{kit.bumped}=={kit.versions[1]}",)),
    ):
        begin = line.counts()
        await pip(*quiet, "--dest", str(work / way.split()[1]), *wanted)
        since = line.counts() - begin
        play.story.charge(way, BUMP, since.up + since.down, "a line, HTTP, pip, both directions")


async def _layers(play: Play, work: Path) -> None:
    workshop = play.workshop
    model = play.story.work / "cloud" / "model-1"
    async with Registry() as registry:
        for number in (1, 2):
            recipe = Recipe([(workshop.environment(number), "opt/environment"), (model, "app")])
            layout = await asyncio.to_thread(build, recipe, work / "images", f"v{number}", day=number)
            registry.push(layout, f"v{number}")
            spent = await registry.pull(f"v{number}", work / "images" / "device")
        play.story.charge("container image's layers", BUMP, spent, "registry's line, HTTP, both directions")
