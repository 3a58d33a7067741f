"""The acts of the story: first versions, a bumped package, way back, one unit, and everything that may go wrong."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from examples.demo.stage import run
from examples.environment import verdict
from examples.environment.cloud_side import Workshop
from examples.environment.edge import DEVICE, ENVIRONMENT, MODEL, UNIT, Edge
from examples.stories import faults
from examples.stories.cloud import Cloud, Json

BUMP = "one bumped package"


class Play:
    """What the acts share: the cloud, the workshop in it, the device. `marks`: what happened when, for the picture."""

    def __init__(self, cloud: Cloud, workshop: Workshop, edge: Edge) -> None:
        self.story, self.cloud, self.workshop, self.edge = workshop.story, cloud, workshop, edge
        self.marks: list[tuple[float, str]] = []
        self.disk = ""

    def mark(self, what: str) -> None:
        """Remember, for the picture, that `what` happened now."""
        self.marks.append((time.monotonic() - self.story.began, what))

    async def desire(self, name: str, version: int) -> None:
        """Wish for a version of one name."""
        await self.cloud.desire(DEVICE, name, version)

    async def serving(self, name: str, version: int) -> None:
        """Wait until the device reports it."""
        await self.cloud.serving(DEVICE, name, version)

    async def publish(self, name: str, folder: Path, *options: str) -> dict[str, Any]:
        """Publish a version, quietly."""
        return await self.cloud.publish(name, folder, "--progress", "none", *options)


async def one_lock(play: Play) -> None:
    """One lock gives the environment of the cloud; made again it is the same, and a model is trained in it."""
    story, workshop = play.story, play.workshop
    made = await workshop.make(1)
    story.report.figures |= {"files of the environment": made["files"], "bytes of the environment": made["bytes"]}
    await workshop.train(1)
    release = await play.publish(ENVIRONMENT, workshop.environment(1))
    await play.publish(MODEL, story.work / "cloud" / "model-1", "--requires", workshop.requirement(1))
    story.say(f"{release['install_bytes']:,} bytes install it; it requires {release['requires']}")
    if not story.short:
        elsewhere = story.work / "cloud" / "again" / "environment"
        await workshop.make(1, elsewhere)
        version = (await play.publish(ENVIRONMENT, elsewhere))["version"]
        story.promise(
            "made again of the same lock, at another place, it is the same bytes and no new version",
            version == 1,
            f"published again it is version {version}",
        )


async def first_install(play: Play) -> None:
    """The device gets environment and model; the service answers from it what the cloud did."""
    story, edge, cloud = play.story, play.edge, play.cloud
    size = 48_000_000 if story.short else 700_000_000
    play.disk = faults.small_disk(edge.folder / "disk", size)
    if play.disk:
        story.not_tried(f"a full disk: {play.disk}")
    await edge.start()
    begin = cloud.line.counts()
    await play.desire(ENVIRONMENT, 1)
    await edge.serve(MODEL)
    await play.serving(ENVIRONMENT, 1)
    story.report.figures["first install of the environment, bytes"] = cloud.spent(begin)
    await play.desire(MODEL, 1)
    await play.serving(MODEL, 1)
    await edge.answered(MODEL, 1, 1)
    play.mark("version 1")
    story.promise(
        "the device answers to the bit what the cloud answered",
        verdict.wrong(edge.answers[MODEL], play.workshop.answers) == 0,
        f"{len(play.workshop.answers[1])} rows, asked ten times a second",
    )


async def bumped(play: Play) -> None:
    """A package is bumped and a model trained with it. The model is desired first, and waits for its environment."""
    story, edge, cloud, workshop = play.story, play.edge, play.cloud, play.workshop
    await workshop.make(2)
    await workshop.train(2)
    release = await play.publish(ENVIRONMENT, workshop.environment(2))
    await play.publish(MODEL, story.work / "cloud" / "model-2", "--requires", workshop.requirement(2))
    story.say(f"{workshop.kit.bumped} {' → '.join(workshop.kit.versions)}: {release['updates'][0]['bytes']:,} bytes")
    play.mark("model 2 is desired")
    await play.desire(MODEL, 2)
    refused = await edge.state(MODEL, 2, "unsupported")
    story.promise(
        "a model that needs a newer environment is refused before a byte of it",
        workshop.kit.bumped in _why(refused),
        _why(refused),
    )
    if not play.disk:
        await _full_disk(play)
    begin = cloud.line.counts()
    play.mark("environment 2 is desired")
    cloud.line.cut_after(600, refuse=True)
    await play.desire(ENVIRONMENT, 2)

    async def broke() -> bool:
        return cloud.line.refusing

    await story.until("the cut of the line", broke)
    await edge.modules["daemon"].kill()
    await asyncio.sleep(1)
    cloud.line.restore()
    await play.serving(ENVIRONMENT, 2)
    spent = cloud.spent(begin)
    await play.serving(MODEL, 2)
    await edge.answered(MODEL, 2, 2)
    play.mark("both serve")
    story.charge(
        "modelsync, signed", BUMP, spent, "origin's line, TLS, both directions; cut once, the daemon killed once"
    )
    seen = verdict.pairs(edge.answers[MODEL])
    story.promise(
        "never was a new model on an old environment, through a cut line and a killed daemon",
        seen == [(1, 1), (2, 1), (2, 2)],
        f"(environment, model) in order: {seen}",
    )
    story.promise("the model came by itself when its environment was there", seen[-1] == (2, 2), "nobody asked again")


async def _full_disk(play: Play) -> None:
    """The environment is desired while its disk is full: what serves goes on, and it is tried again."""
    story, edge = play.story, play.edge
    ballast = faults.fill(edge.folder / "disk", leave=65536)
    await play.desire(ENVIRONMENT, 2)
    refused = await edge.state(ENVIRONMENT, 2, "waiting", "failed")
    count = len(edge.answers[MODEL])
    await asyncio.sleep(0.5)
    later = edge.answers[MODEL][count:]
    story.promise(
        "a full disk refuses the environment, and what serves goes on",
        bool(later) and all(answer.ok and answer.environment == 1 for answer in later),
        _why(refused) or str(refused.get("state", "")),
    )
    await play.desire(ENVIRONMENT, 1)
    ballast.unlink()
    await edge.state(ENVIRONMENT, 1, "active")


async def way_back(play: Play) -> None:
    """Back to the environment of before, the model first, and forward again: nothing is fetched."""
    story, edge, cloud = play.story, play.edge, play.cloud
    begin = cloud.line.counts()
    for name in (MODEL, ENVIRONMENT):
        await run("modelsyncd", "rollback", name, "--data", str(edge.data), "--json")
    await edge.answered(MODEL, 1, 1)
    play.mark("rolled back")
    spent = cloud.spent(begin)
    story.promise("a rollback of both costs no byte", spent == 0, f"{spent} bytes on the origin's line")
    if story.short:
        return
    for name in (ENVIRONMENT, MODEL):
        await run("modelsyncd", "release", name, "--data", str(edge.data), "--json")
    await edge.answered(MODEL, 2, 2)
    play.mark("forward again")
    seen = verdict.pairs(edge.answers[MODEL])
    story.promise("no new model on an old environment on the way back either", (1, 2) not in seen, f"in order: {seen}")


async def one_unit(play: Play) -> None:
    """Environment and model as one artifact: one pointer, so there is nothing to get into the wrong order."""
    story, edge, cloud, workshop = play.story, play.edge, play.cloud, play.workshop
    for number in (1, 2):
        await play.publish(UNIT, await asyncio.to_thread(workshop.unit, number))
        begin = cloud.line.counts()
        await play.desire(UNIT, number)
        if number == 1:
            await edge.serve(UNIT)
        await play.serving(UNIT, number)
        await edge.answered(UNIT, number, number)
        play.mark(f"unit {number}")
        if number == 2:
            what = "one bumped package and a new model, as one unit"
            story.charge("modelsync, signed", what, cloud.spent(begin), "origin's line, TLS, both directions")
    begin = cloud.line.counts()
    await run("modelsyncd", "rollback", UNIT, "--data", str(edge.data), "--json")
    await edge.answered(UNIT, 1, 1)
    play.mark("unit back")
    seen = verdict.pairs(edge.answers[UNIT])
    story.promise(
        "as one unit, environment and model are swapped together, and back for no byte",
        seen == [(1, 1), (2, 2), (1, 1)] and cloud.spent(begin) == 0,
        f"(environment, model) in order: {seen}; {cloud.spent(begin)} bytes",
    )


async def broken(play: Play) -> None:
    """A package is missing; an environment is for another Python. Nothing is switched and nothing restarted."""
    story, edge, workshop = play.story, play.edge, play.workshop
    await _found_out(play, "without a package", workshop.without_a_package())
    if not story.short:
        other = await workshop.for_another_python()
        version = (await play.publish(ENVIRONMENT, other))["version"]
        begin = play.cloud.line.counts()
        await play.desire(ENVIRONMENT, version)
        found = await edge.state(ENVIRONMENT, version, "unsupported")
        story.promise(
            "an environment for another Python is refused by what it requires, before a byte of it",
            "Python" in _why(found),
            f"{_why(found)} ({play.cloud.spent(begin):,} bytes of metadata)",
        )
        # Another version of the same, which claims to require nothing.
        (other / "note").write_text("for whatever Python there is\n")
        await _found_out(play, "for another Python that does not say so", other, "--no-requires")
    await play.desire(ENVIRONMENT, 2)
    await edge.state(ENVIRONMENT, 2, "active")
    play.mark("broken ones refused")


async def _found_out(play: Play, what: str, folder: Path, *options: str) -> None:
    story, edge = play.story, play.edge
    pid, pair = edge.modules[MODEL].pid, verdict.pairs(edge.answers[MODEL])[-1]
    version = (await play.publish(ENVIRONMENT, folder, *options))["version"]
    await play.desire(ENVIRONMENT, version)
    found = await edge.state(ENVIRONMENT, version, "quarantined", "rolled back", "failed")
    story.promise(
        f"an environment {what} is found out before the switch",
        edge.modules[MODEL].pid == pid and verdict.pairs(edge.answers[MODEL])[-1] == pair and bool(_why(found)),
        _why(found),
    )


def _why(reported: Json) -> str:
    return str((reported.get("error") or {}).get("text", ""))


async def killed(play: Play) -> None:
    """The scoring service is killed; it comes back from `current`, and answers as before."""
    story, edge = play.story, play.edge
    count, restarts = len(edge.answers[MODEL]), edge.modules[MODEL].restarts
    await edge.modules[MODEL].kill()

    async def back() -> bool:
        later = edge.answers[MODEL][count:]
        return edge.modules[MODEL].restarts > restarts and any(answer.ok for answer in later[-1:])

    seconds = await story.until("the service after kill -9", back)
    play.mark("kill -9")
    story.promise("a killed service comes back by itself", True, f"after {seconds:.1f} s without an answer")


def whole_run(play: Play) -> None:
    """What must hold of every answer of the run."""
    story, expected = play.story, play.workshop.answers
    for service, answers in play.edge.answers.items():
        if not answers:
            continue
        wrong, good = verdict.wrong(answers, expected), sum(answer.ok for answer in answers)
        story.promise(
            f"every answer of the whole run was, to the bit, its model's answer in the cloud ({service})",
            wrong == 0 and good > 0,
            f"{good:,} answers, {wrong} wrong",
        )
        story.report.figures[f"longest time without an answer, {service}, s"] = round(verdict.longest_gap(answers), 1)
