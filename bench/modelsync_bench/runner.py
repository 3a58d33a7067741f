"""All measurements in order: what is planned, what is left out and why, and what an interrupted run goes on from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelsync_bench import cuts, harness
from modelsync_bench.digests import size, tar
from modelsync_bench.lab import LabError
from modelsync_bench.links import DIRECT, LINKS, predicted_seconds
from modelsync_bench.peers import GENERAL
from modelsync_bench.peers.port import Job, Peer, Site
from modelsync_bench.processes import StepFailed
from modelsync_bench.result import LeftOut, LinkProfile, Measurement, PeerVersion, Result
from modelsync_bench.scenarios import PAIRS, Task

STEP_SECONDS = 900.0
"""How long a device's command may take on the direct line."""

CUT_SECONDS = 180.0
"""How long one that is cut may take: those that go on by themselves wait and try again."""

FAILURES = (StepFailed, LabError, harness.Cheated, RuntimeError, OSError, ValueError)
"""What ends one measurement, not the run."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure. `bound`: seconds that one update may take on a limited line, as predicted from its bytes."""

    links: tuple[LinkProfile, ...] = (LINKS[DIRECT],)
    linked_pairs: frozenset[str] | None = None
    repeats: int = 1
    bound: float = 30.0


class Runner:
    """Measures into `result` and saves it to `path` after each step; what is there already is not measured again.

    `show(done, planned, text)` is called before each measurement.
    """

    def __init__(
        self,
        result: Result,
        path: Path,
        site: Site,
        known: dict[str, Peer],
        settings: Settings,
        show: Callable[[int, int, str], None],
    ) -> None:
        self._result, self._path, self._site = result, path, site
        self._known, self._settings, self._show = known, settings, show
        self._installed: dict[str, Peer] = {}
        self._done = self._planned = 0
        self._register()

    @property
    def installed(self) -> dict[str, Peer]:
        """Name → peer, those that can run here."""
        return self._installed

    def _register(self) -> None:
        entries = {one.name: one for one in self._result.peers}
        for peer in self._known.values():
            version = peer.version()
            missing = None if version else f"not installed: {peer.install}"
            entries[peer.name] = PeerVersion(peer.name, version, missing, peer.method, peer.signed, peer.encrypted)
            if version:
                self._installed[peer.name] = peer
        self._result.peers = list(entries.values())
        links = {one.name: one for one in (*self._result.links, *self._settings.links)}
        self._result.links = list(links.values())

    def run(self, tasks: Iterable[Task]) -> None:
        """Measure each task with each peer over each line."""
        plan = [(task, self._links(task), self._peers(task)) for task in tasks]
        self._planned += sum(
            len(links) if peer.name in self._installed else 1 for _, links, peers in plan for peer in peers
        )
        for task, links, peers in plan:
            self._describe(task)
            tarred: Job | None = None
            for peer in peers:
                job = task.job
                if job.new.is_dir() and not peer.trees:
                    tarred = tarred or _tarred(job, self._site.scratch)
                    job = tarred
                for link in links if peer.name in self._installed else links[:1]:
                    self._one(task, peer, job, link)
                    self._done += 1

    def _peers(self, task: Task) -> list[Peer]:
        names = GENERAL if task.peers is None else task.peers
        return [peer for peer in self._known.values() if peer.name in names]

    def _links(self, task: Task) -> list[LinkProfile]:
        """The lines for a task, the direct one first; the others are left out for all peers at once."""
        chosen = [link for link in self._settings.links if link.name == DIRECT]
        for link in self._settings.links:
            if link.name == DIRECT:
                continue
            if task.scenario != PAIRS:
                reason = "limited lines are measured in the scenario `pairs`"
            elif self._settings.linked_pairs is not None and task.pair not in self._settings.linked_pairs:
                reason = "not among --link-pairs"
            else:
                chosen.append(link)
                continue
            self._leave_out(LeftOut(task.scenario, task.pair, "*", link.name, reason))
        return chosen

    def _describe(self, task: Task) -> None:
        info = task.info()
        self._result.pairs = [
            one for one in self._result.pairs if (one.scenario, one.name) != (info.scenario, info.name)
        ]
        self._result.pairs.append(info)

    def _one(self, task: Task, peer: Peer, job: Job, link: LinkProfile) -> None:
        key = (task.scenario, task.pair, peer.name, link.name)
        there = self._result.find(key)
        if there is not None and there.reason is None:
            enough = self._settings.repeats if link.name == DIRECT and peer.on_line else 0
            if len(there.totals) >= enough:
                return
        if reason := self._why_not(task, peer, job, link):
            if peer.name not in self._installed:
                self._put(replace(self._empty(task, peer, link), reason=reason))
            else:
                self._leave_out(LeftOut(*key, reason))
            return
        self._show(self._done, self._planned, f"{task.scenario} · {task.pair} · {peer.name} · {link.name}")
        self._put(self._measured(task, peer, job, link))

    def _measured(self, task: Task, peer: Peer, job: Job, link: LinkProfile) -> Measurement:
        limit = STEP_SECONDS if link.name == DIRECT else 60 + 6 * self._settings.bound
        try:
            harness.published(peer, job, self._site)
            # Bytes repeat on the direct line; on a slow one they depend on what was sent again, so once is enough.
            repeats = self._settings.repeats if link.name == DIRECT else 1
            return harness.measure(
                peer, job, self._site, link, task.scenario, task.pair, repeats=repeats, seconds=limit
            )
        except FAILURES as error:
            return replace(self._empty(task, peer, link), reason=f"{error}")

    def run_cuts(self, tasks: Iterable[Task]) -> None:
        """Measure each task's cut download, with what the undisturbed one took as the measure of 90 %."""
        plan = [(task, self._peers(task)) for task in tasks]
        self._planned += sum(len(peers) for _, peers in plan)
        for task, peers in plan:
            self._describe(task)
            for peer in peers:
                self._one_cut(task, peer)
                self._done += 1

    def _one_cut(self, task: Task, peer: Peer) -> None:
        key = (task.scenario, task.pair, peer.name, DIRECT)
        there = self._result.find(key)
        if there is not None and there.reason is None:
            return
        link = LINKS[DIRECT]
        if peer.name not in self._installed:
            self._put(replace(self._empty(task, peer, link), reason=f"not installed: {peer.install}"))
            return
        if not peer.on_line:
            self._leave_out(LeftOut(*key, "it does not go over a line here"))
            return
        name = peer.name.removesuffix("-resumed")
        whole = self._result.find((PAIRS, task.pair, name, DIRECT))
        if whole is None or whole.wire_down is None:
            self._leave_out(LeftOut(*key, "the scenario `pairs` has no figure of the undisturbed download"))
            return
        self._show(self._done, self._planned, f"{task.scenario} · {task.pair} · {peer.name}")
        try:
            harness.published(peer, task.job, self._site)
            self._put(cuts.measure(peer, task, self._site, whole.wire_down, CUT_SECONDS))
        except FAILURES as error:
            self._put(replace(self._empty(task, peer, link), reason=f"{error}"))

    def _why_not(self, task: Task, peer: Peer, job: Job, link: LinkProfile) -> str | None:
        if peer.name not in self._installed:
            return f"not installed: {peer.install}"
        if job.held is None and not peer.installs:
            return f"{peer.name} only makes patches of what is held"
        if peer.largest is not None and size(job.new)[0] > peer.largest:
            return f"{peer.name} would take too long to publish more than {peer.largest >> 20} MiB"
        if link.name == DIRECT:
            return None
        if not peer.on_line:
            return "it does not go over a line here"
        direct = self._result.find((task.scenario, task.pair, peer.name, DIRECT))
        if direct is None or direct.wire_down is None or direct.wire_up is None:
            return "there is no measurement on the direct line to predict its time from"
        seconds = predicted_seconds(link, direct.wire_down, direct.wire_up, direct.requests or 1)
        if seconds > self._settings.bound:
            return (
                f"about {seconds:.0f} s are predicted from its bytes, more than {self._settings.bound:.0f} s (--bound)"
            )
        return None

    def _empty(self, task: Task, peer: Peer, link: LinkProfile) -> Measurement:
        return Measurement(task.scenario, task.pair, peer.name, link.name, self._site.lab.counter, peer.deterministic)

    def _put(self, measurement: Measurement) -> None:
        self._result.left_out = [one for one in self._result.left_out if _key(one) != measurement.key]
        self._result.put(measurement)
        self._result.save(self._path)

    def _leave_out(self, entry: LeftOut) -> None:
        self._result.left_out = [one for one in self._result.left_out if _key(one) != _key(entry)] + [entry]
        self._result.save(self._path)


def unsteady(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Those of a deterministic method whose repeats differ by 1 % or more in bytes."""
    return [one for one in measurements if one.deterministic and (one.spread or 0) >= 0.01]


def _key(one: LeftOut) -> tuple[str, str, str, str]:
    return one.scenario, one.pair, one.peer, one.link


def _tarred(job: Job, scratch: Path) -> Job:
    folder = scratch / "tars" / job.key
    folder.mkdir(parents=True, exist_ok=True)
    versions = []
    for number, version in enumerate(job.versions):
        target = folder / f"{number}.tar"
        versions.append(target if target.exists() else tar(version, target))
    return Job(f"{job.key}-tar", tuple(versions), job.held)
