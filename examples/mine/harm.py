"""Acts about harm: killed services, a cut line to the plant, models that are wrong with no defence left, people."""

from __future__ import annotations

import asyncio

from examples.mine import verdict
from examples.mine.broken import bad_models
from examples.mine.plant import WATCHDOG_SECONDS
from examples.mine.site import HERE, LIMITS, Mine
from examples.mine.wiring import MODEL
from modelsync_server.iothub.port import HubService

_WRITES = 12


async def killed(mine: Mine, line: str, services: tuple[str, ...]) -> None:
    """Kill -9 of services, one after the other: the plant keeps its advice, or at worst its own fallback."""
    story, device = mine.story, mine.lines[line]
    for service in services:
        first = mine.mark(line, f"kill -9 of {service}")
        before = device.modules[service].restarts
        await device.modules[service].kill()

        async def back(before: int = before, service: str = service) -> bool:
            return bool(device.modules[service].restarts > before)

        await story.until(f"the restart of {service}", back)
        await mine.advised(line, 2)
        last = mine.log(line).last
        await mine.archived(line, last)
        scans, rows, decided = mine.log(line).between(first, last), await mine.rows(line), await mine.decisions(line)
        lost, undecided = verdict.missing(scans, rows), verdict.missing(scans, decided)
        story.report.figures[f"scans without a decision after kill -9 of {service}"] = len(undecided)
        # What the SDK had acknowledged and the service not yet worked on dies with it: docs/inference.md.
        story.promise(
            f"kill -9 of {service}: no sample is lost to the historian, the plant keeps a set-point",
            not lost and verdict.without_set_point(scans) == 0,
            f"{len(scans)} scans, {len(lost)} not archived, {len(undecided)} never decided, "
            f"set-point from {dict(verdict.sources(scans))}",
        )


async def cut_plant(mine: Mine, line: str) -> None:
    """The line between device and plant is cut: the watchdog gives the plant its fallback, and all comes back."""
    story, device = mine.story, mine.lines[line]
    first = mine.mark(line, "line to the plant cut")
    device.plant.cut(refuse=True)
    seconds = await mine.source(line, "fallback")
    await asyncio.sleep(1.5)
    device.plant.restore()
    await mine.source(line, "advice")
    last = mine.mark(line, "line restored")
    await mine.scans(line, 8)
    await mine.archived(line, last)
    scans = mine.log(line).between(first, last)
    lost = verdict.missing(scans, await mine.rows(line))
    story.report.figures["seconds from a cut to the plant's own fallback"] = round(seconds, 1)
    story.promise(
        "a cut line to the plant: its watchdog takes over, and the rows of the gap are collected later",
        seconds < WATCHDOG_SECONDS + 2 and not lost and verdict.without_set_point(scans) == 0,
        f"fallback after {seconds:.1f} s (watchdog {WATCHDOG_SECONDS:g} s), {len(lost)} of {len(scans)} rows lost",
    )


async def defenceless(mine: Mine, line: str) -> None:
    """No probe, no shadow: models that are wrong in five ways really serve a line. Only the guard is left."""
    story = mine.story
    mine.mark(line, "no defence but the guard")
    await mine.lines[line].score(trial=())
    service: HubService = mine.cloud.service
    refused: dict[str, str] = {}
    for what, data in bad_models(HERE / "v2" / "model.onnx").items():
        artifact = story.work / "bad" / "model.onnx"
        artifact.parent.mkdir(exist_ok=True)
        artifact.write_bytes(data)
        version = int((await mine.publish(artifact))["version"])
        await _above_the_rollouts(service, line, version)

        async def decided(version: int = version) -> bool:
            versions = [int(each["version"]) for each in (await mine.decisions(line)).values()]
            return versions.count(version) >= _WRITES

        first = mine.mark(line, what)
        await story.until(f"decisions on answers of the model of {what}", decided)
        last = mine.log(line).last
        verdicts = {d["verdict"] for d in (await mine.decisions(line)).values() if d["version"] == version}
        log = mine.log(line)
        values = [write["advised"] for write in log.writes_between(first, last)]
        refused[what] = ", ".join(sorted(verdicts))
        story.promise(
            f"a model of {what} can't move the plant beyond its limits",
            bool(values) and all(LIMITS.low <= value <= LIMITS.high for value in values),
            f"{len(values)} writes from {min(values):.0f} to {max(values):.0f} t/h; its answers: {refused[what]}",
        )
    await _above_the_rollouts(service, line, 2, turn=999)
    await mine.advised(line, 2)
    mine.mark(line, "version 2 again")
    await mine.lines[line].score()


async def _above_the_rollouts(service: HubService, line: str, version: int, *, turn: int = 0) -> None:
    """Have `line` desire a version whatever rollouts have left: by a configuration above theirs."""
    turn = turn or version
    wish = {f"properties.desired.modelsync.models.{MODEL}": {"version": version}}
    body = {
        "id": f"by-hand-{turn}",
        "content": {"deviceContent": wish},
        "targetCondition": f"tags.line = '{line}'",
        "priority": 1_000_000 + turn,
        "labels": {},
    }
    await service.put_configuration(f"by-hand-{turn}", body)


async def human(mine: Mine, line: str) -> None:
    """An operator takes the line, and gives it back; then the interlock trips. Advice waits, and begins where it is."""
    story = mine.story
    for what, on, off in (
        ("an operator takes the line", {"OperatorSetpoint": 330.0, "Manual": True}, {"Manual": False}),
        ("the interlock trips", {"Interlock": True}, {"Interlock": False}),
    ):
        first = mine.mark(line, what)
        await mine.operate(line, **on)
        await mine.source(line, "operator" if "Manual" in on else "interlock")
        taken = mine.log(line).last
        await mine.scans(line, 12)
        held = mine.log(line).last
        await mine.operate(line, **off)
        await mine.source(line, "advice")
        await mine.scans(line, 4)
        log = mine.log(line)
        last = mine.mark(line, "advice again")
        writes = log.writes_between(taken + 3, held)
        after = log.writes_between(held + 1, last)
        begin = log.between(held, held)[0]["set_point"]
        jump = abs(after[0]["advised"] - begin) if after else 0.0
        story.promise(
            f"{what}: nothing is written against it, and advice comes back without a jump",
            not writes and bool(after) and jump <= LIMITS.per_second and first < taken,
            f"{held - taken} scans at {begin:.0f} t/h, {len(writes)} writes; then on from {after[0]['advised']:.1f} t/h"
            if after
            else "no advice came back",
        )
