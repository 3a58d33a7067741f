"""What the daemon's worker, and the process that checks metadata, can do once they are taken over; with a control."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.confinement import layers
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.workers.messages import CONFINED_BY, Job
from modelsync_daemon.workers.worker_client import ChildPreparer
from modelsync_protocol.errors import RefusedError

REFUSED = {"EPERM", "EACCES", "ENOSYS", "ESRCH"}
"""ESRCH: Landlock hides whom it keeps signals from."""

SECRET = "HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0"


class World:
    """A data directory, settings with a secret beside it, an origin, and another service on this machine."""

    def __init__(self, root: Path) -> None:
        self.data = DataDir(root / "data")
        self.data.create()
        self.settings = root / "modelsyncd.toml"
        self.settings.write_text(SECRET)
        (self.data.trust / "root.json").write_text("{}")
        self.sas = self.data.root / "origin.sas"
        self.sas.write_text("sig=abc")
        self.origin, self.other = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.job = Job(
            "m", 1, f"http://127.0.0.1:{self.origin.getsockname()[1]}", str(self.data.root), secrets=(str(self.sas),)
        )

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for listener in (self.origin, self.other):
            listener.close()

    def attempt(self, who: str, wanted: str, *attempts: Any, **changes: Any) -> list[str]:
        """What came of each attempt in a taken-over process within `wanted` layers."""
        told = [
            one if isinstance(one, str) and one == "secret" else [one] if isinstance(one, str) else list(one)
            for one in attempts
        ]
        command = [sys.executable, "-m", "tests.support.hostile_worker", who, wanted, json.dumps(told)]

        async def run() -> None:
            with self.data.lock() as lock:
                await ChildPreparer(lock, command).prepare(replace(self.job, **changes), lambda event: None)

        with pytest.raises(RefusedError) as caught:
            asyncio.run(run())
        text = str(caught.value)
        answers: list[str] = json.loads(text) if text.startswith("[") else [text]
        return answers

    def files(self, who: str) -> list[tuple[str, ...]]:
        """What neither may read or write, and one of both may not."""
        foreign = [self.settings, Path("/etc/passwd"), Path(f"/proc/{os.getpid()}/environ"), self.sas]
        foreign += [self.data.trust / "root.json"] if who == "worker" else [self.data.state_db]
        places = [self.data.root, self.settings.parent, Path("/tmp"), self.data.trust]
        places[3:] = [self.data.trust] if who == "worker" else [self.data.models, self.data.root / "incoming"]
        return [
            *(("read", str(path)) for path in foreign),
            *(("make", str(place / "new")) for place in places),
            ("truncate", str(self.settings)),
            ("remove", str(self.settings)),
        ]

    def processes(self) -> list[Any]:
        """What reaches other processes and the kernel."""
        pids = (os.getpid(), self.process.pid)
        return [
            *(("memory_of", pid) for pid in pids),
            *(("read_memory_of", pid) for pid in pids),
            *(("ptrace", pid) for pid in pids),
            *(("kill", pid) for pid in pids[1:]),
            *("fork", "program", "exec", "io_uring", "hidden_memory", "unshare", "mount"),
            *(("socket", family) for family in ("AF_UNIX", "AF_NETLINK", "AF_PACKET")),
        ]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    found = layers.available()
    if found.lacking:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"CONFINEMENT IS NOT TESTED: {' '.join(found.lacking)}")
    monkeypatch.setenv("EdgeHubConnectionString", SECRET)
    monkeypatch.setenv("MODELSYNC_CONNECTION_STRING", SECRET)
    made = World(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("who", ["worker", "checker"])
def test_without_confinement_the_attempts_succeed(world: World, who: str) -> None:
    """Without this, the tests below could pass for the wrong reason."""
    attempts = [one for one in world.files(who) if one[0] in ("read", "make")]
    (Path("/tmp") / "new").unlink(missing_ok=True)
    more = [("variable", "EdgeHubConnectionString"), ("connect", world.other.getsockname()[1]), "fork", "program"]
    more += [("socket", "AF_UNIX"), "hidden_memory", ("kill", world.process.pid)]
    answers = world.attempt(who, "no", *attempts, *more)
    (Path("/tmp") / "new").unlink(missing_ok=True)
    assert all(answer.startswith("done") for answer in answers), answers


@pytest.mark.parametrize("who", ["worker", "checker"])
def test_a_taken_over_process_gets_no_file_no_process_and_no_secret(world: World, who: str) -> None:
    names = ("EdgeHubConnectionString", "MODELSYNC_CONNECTION_STRING")
    attempts = [*world.files(who), *world.processes()]
    answers = world.attempt(who, "all", *attempts, *(("variable", name) for name in names))
    assert set(answers[: len(attempts)]) <= REFUSED, list(zip(attempts, answers, strict=False))
    assert answers[len(attempts) :] == ["KeyError"] * len(names)
    assert world.process.poll() is None
    assert world.settings.read_text() == SECRET


@pytest.mark.parametrize("who", ["worker", "checker"])
@pytest.mark.parametrize("layer", ["landlock", "seccomp"])
def test_one_layer_alone_still_holds_what_is_its(world: World, who: str, layer: str) -> None:
    attempts = world.files(who) if layer == "landlock" else [one for one in world.processes() if one[0] != "memory_of"]
    answers = world.attempt(who, layer, *attempts)
    assert set(answers) <= REFUSED, list(zip(attempts, answers, strict=False))


def test_the_worker_reaches_the_origin_and_no_other_port(world: World) -> None:
    origin, other = (listener.getsockname()[1] for listener in (world.origin, world.other))
    to_origin, to_other = world.attempt("worker", "all", ("connect", origin), ("connect", other))
    assert to_origin.startswith("done")
    if layers.available().landlock >= 4:
        assert to_other == "EACCES"


def test_the_checker_has_no_network_and_no_descriptor_but_its_pipe(world: World) -> None:
    families = ("AF_INET", "AF_INET6")
    *sockets, descriptors = world.attempt("checker", "all", *(("socket", name) for name in families), "descriptors")
    assert set(sockets) <= REFUSED
    assert descriptors == "done: 1"


def test_what_each_works_on_is_left_to_it(world: World) -> None:
    """A confinement that lets nothing through would pass all the tests above."""
    places = [world.data.models, world.data.root / "incoming"]
    mine = world.attempt("worker", "all", *(("make", str(place / "new")) for place in places), ("list", str(places[0])))
    assert all(answer.startswith("done") for answer in mine), mine
    own = world.attempt(
        "checker", "all", ("make", str(world.data.trust / "new")), ("read", str(world.data.trust / "root.json"))
    )
    assert all(answer.startswith("done") for answer in own), own


def test_a_secret_comes_from_the_parent_and_only_the_jobs_own(world: World) -> None:
    assert world.attempt("worker", "all", "secret") == ["sig=abc", None]


def test_the_layers_in_force_are_remembered_and_a_missing_one_can_end_the_job(world: World) -> None:
    world.attempt("worker", "all", ("list", "/"))
    database = Database(world.data.state_db)
    assert {"seccomp", "rlimits"} < set(json.loads(database.document(CONFINED_BY) or "[]"))
    database.close()
    for layer, missing in (("landlock", "libseccomp is missing"), ("seccomp", "no Landlock")):
        (refusal,) = world.attempt("worker", layer, ("list", "/"), require_confinement=True)
        assert refusal.startswith("require_confinement is set") and missing in refusal


PULL = """
import json, sys
from modelsync_daemon import cli
from modelsync_daemon.workers import job_runner
from modelsync_protocol.errors import RefusedError
from tests.support.hostile_code import ATTEMPTS

async def hostile(job, database, emit, open_trust):
    exec(ATTEMPTS, globals())
    raise RefusedError(json.dumps([attempt(*one) for one in json.loads(sys.stdin.read())]))

job_runner.run = hostile
cli.main()
"""


def test_the_command_pull_gives_up_the_same(world: World) -> None:
    command = [sys.executable, "-c", PULL, "pull", "m", "--origin", world.job.origin, "--data", str(world.data.root)]
    attempts = [["read", "/etc/passwd"], ["make", str(world.settings.parent / "new")], ["fork"], ["socket", "AF_UNIX"]]
    attempts += [["connect", world.other.getsockname()[1]]] if layers.available().landlock >= 4 else []
    own = [["make", str(world.data.root / "new")], ["connect", world.origin.getsockname()[1]]]
    done = subprocess.run(
        command, input=json.dumps([*attempts, *own]), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 3, done.stderr
    answers = json.loads(done.stderr.removeprefix("modelsyncd: "))
    assert set(answers[: len(attempts)]) <= REFUSED and all(answer.startswith("done") for answer in answers[-2:]), (
        answers
    )
