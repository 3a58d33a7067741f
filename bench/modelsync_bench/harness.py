"""One measurement: publish, let a fresh device fetch, count, and believe nothing that the peer says of itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelsync_bench.digests import digest
from modelsync_bench.lab import Counts, quiet
from modelsync_bench.links import DIRECT, SET_UP
from modelsync_bench.peers.port import Account, Job, Peer, Site
from modelsync_bench.processes import Used, run_steps
from modelsync_bench.result import LinkProfile, Measurement, Request
from modelsync_bench.static_origin import AccessLog

HANDSHAKE_BYTES = 24 * 1024
"""Most that a connection's own traffic (TLS, headers, acknowledgements of little) can weigh in one direction."""

OVERHEAD = 0.25
"""Most that headers of packets and records add to a payload; on lossy lines what is sent again comes on top."""


FEW_BYTES = 64 * 1024
"""Below this a measurement is the median of three."""


class Cheated(Exception):
    """A peer's claim can't be true; the message says which."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """One fetch as it was seen from outside."""

    counts: Counts
    used: tuple[Used, ...]
    log: tuple[Request, ...]

    @property
    def total(self) -> int:
        """Bytes on the line, both ways."""
        return self.counts.up + self.counts.down


def published(peer: Peer, job: Job, site: Site) -> None:
    """Let the peer publish, once for a folder: what an interrupted run left half-made is made anew."""
    folder = site.folder(peer.name, job)
    marker = folder / ".published"
    if marker.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    peer.publish(job, site)
    marker.touch()


def measure(
    peer: Peer, job: Job, site: Site, link: LinkProfile, scenario: str, pair: str, *, repeats: int, seconds: float
) -> Measurement:
    """Measure it `repeats` times; the first gives the figures, all give `totals`.

    Little is fetched three times for each, and the one with the median of bytes counts: one acknowledgement more or
    less, which is up to the scheduler, is 1 % of 6 KB.

    Raises StepFailed if the device's commands fail or take longer than `seconds`, Cheated if what the peer says is not
    what was seen.
    """
    medians: list[tuple[Fetched, Account]] = []
    with peer.serve(site, job) as own_log:
        for _ in range(repeats):
            samples = [_checked(peer, job, site, link, own_log, seconds)]
            if samples[0][0].total < FEW_BYTES and link.name == DIRECT:
                samples += [_checked(peer, job, site, link, own_log, seconds) for _ in range(2)]
            samples.sort(key=lambda sample: sample[0].total)
            medians.append(samples[len(samples) // 2])
    fetched, account = medians[0]
    return Measurement(
        scenario,
        pair,
        peer.name,
        link.name,
        site.lab.counter if peer.on_line else "none",
        peer.deterministic and not link.lost_per_mille,
        account.payload_bytes,
        fetched.counts.up if peer.on_line else None,
        fetched.counts.down if peer.on_line else None,
        account.requests,
        round(sum(one.seconds for one in fetched.used), 3),
        account.memory or max(one.memory for one in fetched.used),
        round(account.cpu or sum(one.cpu for one in fetched.used), 3),
        True,
        tuple(one.total for one, _ in medians) if peer.on_line else (),
        fetched.log,
    )


def _checked(
    peer: Peer, job: Job, site: Site, link: LinkProfile, own_log: AccessLog | None, seconds: float
) -> tuple[Fetched, Account]:
    """One fetch by a fresh device, and what the peer says of it, both believed only after all checks."""
    with tempfile.TemporaryDirectory(prefix="device-", dir=site.scratch) as folder:
        device = Path(folder)
        site.lab.use(SET_UP)
        with peer.hold(job, site, device):
            site.lab.use(link)
            fetched = fetch(peer, job, site, link, device, own_log, seconds)
            account = peer.account(job, fetched.log, fetched.used)
            exact(peer.result(job, device), job)
            if peer.on_line:
                plausible(account, fetched, lossy=link.lost_per_mille > 0)
        return fetched, account


def fetch(
    peer: Peer, job: Job, site: Site, link: LinkProfile, device: Path, own_log: AccessLog | None, seconds: float
) -> Fetched:
    """Run the device's steps between two readings of the line."""
    log = own_log or (site.static.log if site.static else None)
    still = 0.1 + 2 * link.round_trip_ms / 1000
    before = quiet(site.lab, still)
    mark = log.mark() if log else 0
    used = run_steps(site.lab, peer.steps(job, site, device), device, seconds)
    peer.settle(job, site, device)
    counts = quiet(site.lab, still) - before
    return Fetched(counts, tuple(used), log.since(mark) if log else ())


def exact(result: Path, job: Job) -> None:
    """Hold the result against the new version. Cheated if it is not bit by bit the same."""
    if not result.exists():
        raise Cheated("wrong result: nothing lies where the new version should")
    if digest(result) != digest(job.new):
        raise Cheated("wrong result: it is not the new version, bit by bit")


def plausible(account: Account, fetched: Fetched, *, lossy: bool) -> None:
    """Hold the peer's account against the line and the server's log. Cheated if they can't go together."""
    claimed, down = account.payload_bytes, fetched.counts.down
    if claimed is None:
        return
    bodies = _bodies(fetched.log)
    if bodies is not None and claimed < bodies:
        raise Cheated(f"under-reported bytes: {claimed} claimed, the server's log has {bodies}")
    if claimed > down:
        raise Cheated(f"impossible bytes: {claimed} claimed, {down} came over the line")
    connections = 1 + (account.requests or 0)
    most = claimed * (1 + (4 * OVERHEAD if lossy else OVERHEAD)) + connections * HANDSHAKE_BYTES
    if down > most:
        raise Cheated(f"under-reported bytes: {claimed} claimed, but {down} came over the line")


def _bodies(log: Sequence[Request]) -> int | None:
    return sum(one.body_bytes for one in log) if log else None
