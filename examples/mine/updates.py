"""Acts about updates: the first versions, one in mid-stream, one by stick, and two that must not get through."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from examples.demo.stage import StageError, run
from examples.mine import verdict
from examples.mine.broken import inverted, shifted
from examples.mine.site import HERE, UNDERGROUND, Mine
from examples.mine.wiring import MODEL, TRIAL_SECONDS
from examples.stories import faults

DISK = 24_000_000
"""Bytes of the level's disk, so that it can be full."""


async def first_versions(mine: Mine) -> None:
    """Version 1 everywhere: by the twin on the surface, by stick underground; then set-points flow."""
    story, cloud = mine.story, mine.cloud
    await mine.publish(HERE / "v1" / "model.onnx", HERE / "v1" / "probe.json")
    begin = cloud.line.counts()
    for name in mine.surface:
        await mine.lines[name].follow(cloud.devices[name])
        await cloud.desire(name, MODEL, 1)
    serving = asyncio.gather(*(cloud.serving(name, MODEL, 1) for name in mine.surface))
    if UNDERGROUND in mine.lines:
        level = mine.lines[UNDERGROUND]
        if refused := faults.small_disk(level.data, DISK):
            story.not_tried(f"a full disk: {refused}")
        level.config.write_text(cloud.daemon_settings(level.data, cloud.devices[UNDERGROUND]))
        await carry(mine)
    await serving
    story.report.figures["first install, bytes a line"] = cloud.spent(begin) // len(mine.surface)
    await asyncio.gather(*(line.start() for line in mine.lines.values()))
    for name in mine.names:
        await mine.advised(name, 1)
    story.say(
        f"{', '.join(mine.names)}: collector, windowing, scoring, actuator and historian each, "
        f"wired by {len(mine.lines[mine.names[0]].modules) + 2} routes; set-points flow"
    )


async def carry(mine: Mine) -> Path:
    """Export what the level lacks to a stick, and import it there."""
    stick = mine.story.work / "stick"
    await mine.cloud.modelsync("export", mine.cloud.store, str(stick), "--models", MODEL)
    await mine.lines[UNDERGROUND].brought(stick)
    return stick


def _reason(failed: str) -> str:
    """Why `modelsyncd import` failed, in its own words."""
    text = failed.partition("failed: ")[2]
    try:
        return str(json.loads(text)["models"][MODEL]["text"])
    except (ValueError, KeyError, TypeError):
        return text


async def mid_stream(mine: Mine) -> None:
    """Version 2 to line after line: in each it is a shadow first; every scan is scored, by one version or the other."""
    story, cloud = mine.story, mine.cloud
    published = await mine.publish(HERE / "v2" / "model.onnx", HERE / "v2" / "probe.json")
    story.say(f"version 2: {published['updates'][0]['bytes']:,} bytes from version 1; {TRIAL_SECONDS} s a shadow first")
    first = {name: mine.mark(name, "version 2 is desired") for name in mine.surface}
    begin = cloud.line.counts()
    if story.short:
        await cloud.desire("mill-1", MODEL, 2)
        await cloud.serving("mill-1", MODEL, 2)
    elif await mine.roll(2) is not None:
        raise StageError("version 2 did not get through the rings")
    spent = cloud.spent(begin) // len(mine.surface)
    for name in mine.surface:
        await mine.advised(name, 2)
    story.charge(
        "modelsync, signed", "an update of the model", spent, "origin's line, TLS, both directions, a line's share"
    )
    for name in mine.surface:
        last = mine.mark(name, "version 2 serves")
        await judge_update(mine, name, first[name], last)
    compared = {name: _trial(await cloud.reported(name, MODEL)) for name in mine.surface}
    rows = sum(trial.get("rows", 0) for trial in compared.values())
    agreed = sum(trial.get("agreed", 0) for trial in compared.values())
    story.promise(
        "a new version's set-points are compared before one is written",
        all(trial.get("version") == 2 and trial.get("rows", 0) > 0 for trial in compared.values()),
        f"{rows} set-points of version 2 beside those of version 1, {agreed} within 1 per cent",
    )
    story.report.figures |= {"set-points compared in shadow": rows, "of these within 1 %": agreed}
    if len(mine.surface) > 1:
        switched = {name: _switched(await mine.decisions(name), 2) for name in mine.surface}
        times = {
            name: next(scan["t"] for scan in mine.log(name).scans if scan["scan"] == at)
            for name, at in switched.items()
        }
        earlier = times["mill-2"] - times["mill-1"]
        story.promise("canary per line", earlier > TRIAL_SECONDS, f"mill-2 followed mill-1 after {earlier:.0f} s")


async def judge_update(mine: Mine, name: str, first: int, last: int) -> None:
    """No sample is lost, and the plant is never without advice, from scan `first` to `last`."""
    await mine.archived(name, last)
    scans, rows, decided = mine.log(name).between(first, last), await mine.rows(name), await mine.decisions(name)
    lost, undecided = verdict.missing(scans, rows), verdict.missing(scans, decided)
    story = mine.story
    story.promise(
        f"an update in mid-stream loses no sample ({name})",
        not lost and not undecided and len(scans) == last - first + 1,
        f"scans {first} to {last}: {len(lost)} not archived, {len(undecided)} without a decision",
    )
    versions = verdict.switches([(n, each["version"]) for n, each in decided.items() if first <= n <= last])
    story.promise(f"one switch between two scans ({name})", versions == [1, 2], f"versions in order: {versions}")
    sources = verdict.sources(scans)
    story.promise(
        f"the plant is never without a set-point ({name})",
        verdict.without_set_point(scans) == 0 and sources.keys() == {"advice"},
        f"{len(scans)} scans, set-point from {dict(sources)}",
    )


async def bad_versions(mine: Mine) -> None:
    """Two bad versions, with every defence on: one that its probe finds, one that only the shadow can find."""
    story, cloud = mine.story, mine.cloud
    mending: asyncio.Task[None] | None = None
    v2 = HERE / "v2" / "model.onnx"
    for what, data, probe in (
        ("whose recorded answers are not its own", shifted(v2), HERE / "v2" / "probe.json"),
        ("of plausible nonsense, without a probe", inverted(v2), None),
    ):
        artifact = story.work / "bad" / "model.onnx"
        artifact.parent.mkdir(exist_ok=True)
        artifact.write_bytes(data)
        version = (await mine.publish(artifact, probe))["version"]
        first = {name: mine.mark(name, f"version {version}, bad") for name in mine.surface}
        if probe is not None:  # and the line to the origin breaks in mid-update
            cloud.line.cut_after(600, refuse=True)
            mending = asyncio.create_task(_mend(mine))
        status = await mine.roll(version)
        if mending is not None:
            await mending
        for name in mine.surface:
            await mine.archived(name, mine.log(name).last)
        seen = [version in {each["version"] for each in (await mine.decisions(name)).values()} for name in mine.surface]
        heard = [cloud_wish == version for cloud_wish in await _wishes(mine)]
        why = (await _refusal(mine, mine.surface[0])) or (
            status.record.why if status is not None else "it went through"
        )
        good = all(
            verdict.sources(mine.log(name).between(first[name], mine.log(name).last)).keys() == {"advice"}
            for name in mine.surface
        )
        story.promise(
            f"a model {what} is refused on the first line, the second never hears of it",
            status is not None and not any(seen) and not any(heard[1:]) and good,
            why,
        )
        await cloud.modelsync("rollout", "abort", MODEL, "--yes", "--by", "ada")


async def _mend(mine: Mine) -> None:
    """The line to the origin comes back two seconds after it broke."""

    async def broke() -> bool:
        return mine.cloud.line.refusing

    await mine.story.until("the cut of the line to the origin", broke)
    await asyncio.sleep(2)
    mine.cloud.line.restore()
    mine.story.say("the line to the origin broke while a version was fetched, and is back after 2 s")


async def _wishes(mine: Mine) -> list[int | None]:
    twins = [await mine.cloud.service.twin(name) for name in mine.surface]
    return [
        t["properties"]["desired"].get("modelsync", {}).get("models", {}).get(MODEL, {}).get("version") for t in twins
    ]


async def _refusal(mine: Mine, name: str) -> str:
    reported = await mine.cloud.reported(name, MODEL)
    return str((reported.get("error") or {}).get("text", ""))


async def underground(mine: Mine) -> None:
    """Version 2 by stick; first the level's disk is full. What it serves is carried back to the surface's twin."""
    story, level = mine.story, mine.lines[UNDERGROUND]
    first = mine.mark(UNDERGROUND, "the stick arrives")
    if not any("full disk" in sentence for sentence in story.report.not_tried):
        ballast = faults.fill(level.data, leave=65536)
        refused = ""
        try:
            await carry(mine)
        except StageError as error:
            refused = _reason(str(error))
        decided = {n: d for n, d in (await mine.decisions(UNDERGROUND)).items() if n > first}
        story.promise(
            "a full disk refuses the update, and version 1 goes on",
            bool(refused) and all(each["version"] in (0, 1) for each in decided.values()),
            refused or "the import went through",
        )
        ballast.unlink()
    stick = await carry(mine)
    await mine.advised(UNDERGROUND, 2)
    size = sum(file.stat().st_size for file in stick.rglob("*") if file.is_file())
    story.charge("modelsync, by stick", "both versions, whole, on a stick", size, "the files of the export")
    await judge_update(mine, UNDERGROUND, first, mine.mark(UNDERGROUND, "version 2 serves"))
    report = story.work / "level.report"
    await run("modelsyncd", "export-report", str(report), "--config", str(level.config), "--json")
    await mine.cloud.modelsync("import-report", str(report))
    known = await mine.cloud.reported(UNDERGROUND, MODEL)
    story.promise(
        "the surface knows what serves underground",
        known.get("version") == 2,
        f"its twin says version {known.get('version')}",
    )


def _trial(reported: dict[str, object]) -> dict[str, int]:
    """The shadow's counters in a report, with the version."""
    inference = reported.get("inference")
    trial = inference.get("trial") if isinstance(inference, dict) else None
    return {} if not isinstance(trial, dict) else {"version": trial.get("version", 0), **trial.get("shadow", {})}


def _switched(decided: dict[int, dict[str, object]], version: int) -> int:
    return min(scan for scan, each in decided.items() if each["version"] == version)
