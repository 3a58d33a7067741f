"""What neighbours gave kills a worker: it is done again without them, and they are not asked for it again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.spool import Spool
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_daemon.workers.messages import Job, Outcome, WorkerDied
from modelsync_daemon.workers.suspicion import Suspicion, read
from modelsync_daemon.workers.worker_client import ChildPreparer
from tests.support.addresses import free_port
from tests.support.brittle_worker import MARKER
from tests.support.liars import Liar
from tests.support.neighbours import noise
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

KIB = 1024
BRITTLE = (sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
           "from tests.support.brittle_worker import main; main()")  # fmt: skip
TARGET = "packs/" + "a" * 64
PEERS = ("10.0.0.1:1", "10.0.0.2:1")
OUTCOME = {
    "name": "m", "version": 1, "digest": "b" * 64, "held": False, "kind": "pack", "bytes": 5, "requests": 1,
    "received": 7, "sent": 3, "wire_requests": 2, "withdrawn": [],
}  # fmt: skip


async def deadly(liar: Liar, request: web.Request, whole: bytes, begin: int, end: int) -> web.StreamResponse:
    """Objects that kill whoever decodes them; all else as it should be."""
    body = whole[begin:end]
    if request.match_info["path"].startswith(("packs/", "updates/")):
        body = body[: -len(MARKER)] + MARKER
    return await liar.send(request, body, begin, end)


async def test_a_worker_that_a_neighbour_kills_is_done_again_without_it(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    old = noise(150 * KIB)
    new = old[: 100 * KIB] + noise(60 * KIB)
    data = DataDir(tmp_path / "device")
    async with ScriptedOrigin(shop.path) as origin, Liar(shop.path, deadly) as liar:
        with data.lock() as lock:
            database = Database.open(data)
            preparer = ChildPreparer(lock, BRITTLE)
            access = SiteAccess("test", f"127.0.0.1:{free_port()}", (liar.address,), str(data.root / "site"), 1 << 30)
            Spool(data.root / "site", 1 << 30).create()
            for version, artifact in enumerate((old, new), 1):
                await shop.publish_bytes("m", artifact)
                database.transition("m", "resolving")
                liar.asked.clear()
                job = Job(
                    "m", version, origin.url, str(data.root), trust_root=str(shop.trust), stall_seconds=5,
                    site=access.document(),
                )  # fmt: skip
                made = await preparer.prepare(job, lambda event: None)
                assert (data.version_dir("m", version, made.digest) / "model.bin").read_bytes() == artifact
                killing = [path for path in liar.asked if path.startswith(("packs/", "updates/"))]
                assert killing, "it was asked, so it could kill"
                for path in killing:
                    assert Spool(data.root / "site", 1 << 30).open(path) is None, "it is offered to nobody"
            # The same version once more, from nothing: who has killed is not asked for this any more.
            liar.asked.clear()
            data.remove_model("m")
            database.transition("m", "resolving")
            await preparer.prepare(job, lambda event: None)
            assert liar.asked and not set(liar.asked) & set(killing)
            database.close()


class Scripted:
    """A preparer on workers that do as a script says; `jobs` are what they were given."""

    def __init__(self, root: Path, code: str) -> None:
        self.lock = DataDir(root).lock()
        self.log = root / "jobs"
        script = (
            "import json, os, sys\njob = json.loads(sys.stdin.readline())\n"
            f"open({str(self.log)!r}, 'a').write(json.dumps(job) + chr(10))\n"
            f"jobs = len(open({str(self.log)!r}).readlines())\n"
            "say = lambda **event: print(json.dumps(event), flush=True)\n"
            f"gave = lambda who, wrong=False: say(event='neighbour', object={TARGET!r}, holder=who, wrong=wrong)\n"
            f"done = lambda: say(event='result', outcome={OUTCOME!r})\ndie = lambda: os.kill(os.getpid(), 11)\n{code}"
        )
        self.preparer = ChildPreparer(self.lock, [sys.executable, "-c", script])
        self.site = SiteAccess("test", "10.0.0.9:1", PEERS, str(root / "site"), 1 << 30).document()
        self.events: list[Mapping[str, Any]] = []

    async def prepare(self) -> Outcome:
        return await self.preparer.prepare(Job("m", 1, "http://o", "/d", site=self.site), self.events.append)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


async def test_those_who_gave_it_are_refused_from_then_on(tmp_path: Path) -> None:
    made = Scripted(tmp_path, f"(gave({PEERS[1]!r}), die()) if job['site'] and jobs == 1 else done()")
    await made.prepare()
    await made.prepare()
    assert [bool(job["site"]) for job in made.jobs] == [True, False, True]
    assert [job["anew"] for job in made.jobs] == [False, True, False]
    assert made.jobs[2]["site"]["refused"] == {TARGET: [PEERS[1]]}
    assert made.events == [], "it is the preparer's business"
    made.lock.close()


async def test_who_dies_without_neighbours_too_suspects_nobody(tmp_path: Path) -> None:
    made = Scripted(tmp_path, f"gave({PEERS[1]!r}) if job['site'] else None\ndie()")
    for _ in range(2):
        with pytest.raises(WorkerDied, match="signal 11"):
            await made.prepare()
    assert [bool(job["site"]) for job in made.jobs] == [True, False, True, False]
    assert made.jobs[2]["site"]["refused"] == {}
    made.lock.close()


async def test_who_dies_of_its_own_is_not_done_again(tmp_path: Path) -> None:
    made = Scripted(tmp_path, "done() if jobs == 1 else die()")
    await made.prepare()
    with pytest.raises(WorkerDied):
        await made.prepare()
    assert len(made.jobs) == 2
    made.lock.close()


async def test_what_an_earlier_daemon_began_may_be_a_neighbours(tmp_path: Path) -> None:
    made = Scripted(tmp_path, "die() if not job['anew'] else done()")
    await made.prepare()
    assert [job["anew"] for job in made.jobs] == [False, True]
    made.lock.close()


async def test_one_strike_outlives_the_worker(tmp_path: Path) -> None:
    made = Scripted(tmp_path, f"gave({PEERS[0]!r}, True)\ndone()")
    await made.prepare()
    await made.prepare()
    assert made.jobs[1]["site"]["refused"] == {TARGET: [PEERS[0]]}
    made.lock.close()


async def test_a_worker_can_accuse_only_neighbours(tmp_path: Path) -> None:
    made = Scripted(tmp_path, "gave('10.9.9.9:1', True)\ndone()")
    await made.prepare()
    with pytest.raises(WorkerDied, match="no such neighbour"):
        await made.prepare()
    assert [bool(job["site"]) for job in made.jobs] == [True, False, True]
    assert made.jobs[2]["site"]["refused"] == {}
    made.lock.close()


def test_suspicion_ends_and_is_bounded() -> None:
    now = 0.0
    suspicion = Suspicion(lambda: now)
    site = {"peers": PEERS}
    given: dict[str, set[str]] = {}
    for number in range(10_000):
        event = {"object": f"packs/{number}", "holder": PEERS[0], "wrong": True}
        assert read(event, site, given)
        suspicion.add({str(event["object"]): {PEERS[0]}})
    assert len(given) <= 256 and 0 < len(suspicion.tell(site)["refused"]) <= 256
    now = 7 * 3600
    assert suspicion.tell(site)["refused"] == {}
