"""A download that is cut when 90 % of it is there: by the line, and by `kill -9`; then it goes on, or starts anew.

Who starts anew pays twice. The line's cut resets connections and refuses new ones for a while; a method that goes on by
itself may, and one that gives up is started again when the line is back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from modelsync_bench import harness
from modelsync_bench.lab import LabError, quiet
from modelsync_bench.links import DIRECT, LINKS, SET_UP
from modelsync_bench.peers import GENERAL
from modelsync_bench.peers.port import Job, Peer, Site
from modelsync_bench.processes import Step, StepFailed, Used
from modelsync_bench.result import Measurement
from modelsync_bench.scenarios import Task

CUT_LINE, CUT_KILL = "cut-line", "cut-kill"
SHARE = 0.9
_OUTAGE_SECONDS = 3.0
_ATTEMPTS = 5

How = Literal["line", "kill"]


def tasks(found: dict[str, tuple[Path, Path]]) -> Iterator[Task]:
    """The largest pair, cut both ways; the jobs are those of the pairs, so that nothing is published again."""
    name, (old, new) = max(found.items(), key=lambda item: item[1][1].stat().st_size)
    for scenario in (CUT_LINE, CUT_KILL):
        yield Task(scenario, name, Job(name, (old, new), 0), "cut at 90 %", GENERAL | {"https-get-resumed"})


def measure(peer: Peer, task: Task, site: Site, whole_down: int, seconds: float) -> Measurement:
    """Cut it when 90 % of `whole_down` (what it takes undisturbed, bytes) came, and count all until it is done.

    Raises as harness.measure does, and LabError where the line can't be cut.
    """
    how: How = "line" if task.scenario == CUT_LINE else "kill"
    job = task.job
    with (
        peer.serve(site, job) as own_log,
        tempfile.TemporaryDirectory(prefix="device-", dir=site.scratch) as folder,
    ):
        device = Path(folder)
        site.lab.use(SET_UP)
        with peer.hold(job, site, device):
            site.lab.use(LINKS[DIRECT])
            log = own_log or (site.static.log if site.static else None)
            before = quiet(site.lab, 0.1)
            mark = log.mark() if log else 0
            site.lab.cut_after(round(SHARE * whole_down), "reset" if how == "line" else "silence")
            try:
                used = _through(peer, job, site, device, how, seconds)
            finally:
                site.lab.mend()
            counts = quiet(site.lab, 0.1) - before
            requests = log.since(mark) if log else ()
            harness.exact(peer.result(job, device), job)
    return Measurement(
        task.scenario,
        task.pair,
        peer.name,
        DIRECT,
        site.lab.counter,
        False,  # how much was in flight when it was cut is up to chance
        sum(one.body_bytes for one in requests) or None,
        counts.up,
        counts.down,
        len(requests) or None,
        round(sum(one.seconds for one in used), 3),
        max(one.memory for one in used),
        round(sum(one.cpu for one in used), 3),
        True,
        (counts.up + counts.down,),
        requests,
    )


def _through(peer: Peer, job: Job, site: Site, device: Path, how: How, seconds: float) -> list[Used]:
    """Run the steps, again from the first after each failure, until all are done; what was killed has no figures."""
    used: list[Used] = []
    cut = False
    for _ in range(_ATTEMPTS):
        done = 0
        commands = peer.steps(job, site, device)
        for argv in commands:
            step = Step(site.lab, argv, device)
            begin = time.monotonic()
            while step.running() and not cut:
                if site.lab.is_cut():
                    cut = True
                    if how == "kill":
                        step.kill()
                    else:
                        time.sleep(_OUTAGE_SECONDS)
                    site.lab.mend()
                elif time.monotonic() - begin > seconds:
                    step.kill()
                    raise StepFailed(f"`{step.name}` took longer than {seconds:.0f} s")
                else:
                    time.sleep(0.01)
            try:
                used.append(step.wait(seconds))
            except StepFailed:
                if how == "kill" and cut:
                    break  # killed: no report
                raise
            if used[-1].code:
                cut = cut or _over(site)
                break
            done += 1
        if done == len(commands):
            if not cut:
                raise LabError("it was done before it could be cut: fewer bytes came than when it was undisturbed")
            return used
    raise StepFailed(f"not done after {_ATTEMPTS} attempts: {step.errors}")


def _over(site: Site) -> bool:
    """Whether the cut came just before the method gave up: wait the outage out, then."""
    if not site.lab.is_cut():
        return False
    time.sleep(_OUTAGE_SECONDS)
    site.lab.mend()
    return True
