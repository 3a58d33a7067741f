"""How far a command is: a bar on a terminal, JSON where it is asked, silence elsewhere; and what Ctrl-C leaves."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.scale import models
from modelsync_server.cli.progress import Events
from modelsync_server.publish.objects import ToldPool
from modelsync_server.store.collected import MARK

MODELSYNC = str(Path(sys.executable).with_name("modelsync"))
_WORK = """
import sys, time
from modelsync_server.cli.options import ProgressForm
from modelsync_server.cli.progress import shown
with shown(ProgressForm(sys.argv[1]), "work") as update:
    for step in range(int(sys.argv[2]) + 1):
        update("packing", step * 1_000_000, 80_000_000)
        time.sleep(0.05)
"""


def on_terminal(command: list[str]) -> str:
    """What a command shows on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            shown += block
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def test_a_terminal_gets_stage_bytes_rate_and_time_left() -> None:
    shown = on_terminal([sys.executable, "-c", _WORK, "auto", "45"])
    assert "packing" in shown and "/80.0 MB" in shown and "MB/s" in shown
    # Twenty million bytes a second at the most, and at least thirty-five million left.
    assert "00:0" in shown.replace("0:00:0", "")
    assert shown.rstrip().endswith("\x1b[2K"), "nothing of it stays"


def test_what_is_quick_or_no_terminal_shows_nothing() -> None:
    assert on_terminal([sys.executable, "-c", _WORK, "auto", "2"]).strip() in ("", "\x1b[?25h")
    done = subprocess.run([sys.executable, "-c", _WORK, "auto", "25"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_events_are_objects_with_bytes_rate_and_seconds_left() -> None:
    done = subprocess.run([sys.executable, "-c", _WORK, "json", "30"], capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(event["event"] == "progress" and event["command"] == "work" for event in events)
    assert events[0] | {"stage": "packing", "done": 0, "total": 80_000_000} == events[0]
    assert events[-1]["stage"] == "done"
    middle = events[-2]
    assert 0 < middle["done"] < 80_000_000 and middle["rate"] > 0
    assert middle["left"] == pytest.approx((middle["total"] - middle["done"]) / middle["rate"], abs=0.2)
    assert 3 <= len(events) <= 8, "two a second"


def modelsync(*words: str | Path, folder: Path, program: tuple[str, ...] = (MODELSYNC,)) -> subprocess.Popen[str]:
    """The command with its events; temporary files go to `folder`/tmp."""
    environment = {**os.environ, "MODELSYNC_KEYS": str(folder / "keys"), "TMPDIR": str(folder / "tmp")}
    return subprocess.Popen(
        [*program, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def publish(folder: Path, model: Path, program: tuple[str, ...] = (MODELSYNC,)) -> subprocess.Popen[str]:
    words = ("publish", folder / "store", "m", model, "--progress", "json", "--json")
    return modelsync(*words, folder=folder, program=program)


def stages(stderr: str) -> list[str]:
    return [json.loads(line)["stage"] for line in stderr.splitlines()]


def test_an_interrupted_publish_leaves_nothing_half_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    pair = models.tensors(tmp_path, 6 * models.MB)
    for words in (
        ("init", tmp_path / "store"),
        ("publish", tmp_path / "store", "m", pair.old),
    ):
        assert modelsync(*words, folder=tmp_path).communicate() is not None
    process = publish(tmp_path, pair.new, (sys.executable, "-c", _ON_A_SLOW_MACHINE))
    assert process.stderr is not None and process.stdout is not None
    seen = ""
    while "update 1 of 1" not in seen:  # its packs are in the store by now
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(timeout=30) == 130
    last = said.splitlines()[-1]
    assert last == "modelsync: interrupted: run it again, and what is done already is not done twice."
    assert process.stdout.read() == "" and "Traceback" not in said
    assert [*tmp_path.joinpath("tmp").iterdir()] == []
    assert list((tmp_path / "store").rglob(".tmp-*")) == []
    verified = modelsync("verify", tmp_path / "store", folder=tmp_path)
    assert verified.communicate()[0].startswith("1 versions") and verified.returncode == 0
    again = publish(tmp_path, pair.new)
    out, events = again.communicate()
    assert again.returncode == 0 and json.loads(out)["version"] == 2
    assert "packing" in stages(seen) and "packing" not in stages(events), "what was written is used"
    assert stages(events)[-1] == "done"


def test_a_pass_over_the_jobs_of_an_update_is_told_in_bytes_of_the_target() -> None:
    told: list[tuple[str, int, int]] = []
    with ThreadPoolExecutor(2) as threads:
        pool = ToldPool(threads, lambda *event: told.append(event), quiet=0)
        pool.progress("update 1 of 2", 0, 1000)
        assert list(pool.map(int.__add__, range(4), iter([10, 20, 30, 40]))) == [10, 21, 32, 43]
        assert list(pool.map(str, [])) == []
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
        assert pool.submit(abs, -3).result() == 3
        pool.progress("measuring", 0, 500)
        assert list(pool.map(abs, [-1])) == [1]
    assert told == [
        ("update 1 of 2", 0, 1000),
        *(("update 1 of 2, pass 1", done, 1000) for done in (250, 500, 750, 1000)),
        *(("update 1 of 2, pass 3", done, 1000) for done in (500, 1000)),
        ("measuring", 0, 500),
        ("measuring, pass 1", 500, 500),
    ]


def test_stages_that_only_count_are_two_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    events = Events("verify")
    for number in range(1, 2001):
        events.update(f"version {number} of 2000", 0, 1)
    events.update("packs", 0, 10)
    events.update("packs", 10, 10)
    stages = [json.loads(line)["stage"] for line in capsys.readouterr().err.splitlines()]
    assert stages[0] == "version 1 of 2000" and stages[-2:] == ["packs", "packs"] and len(stages) < 20


_ON_A_SLOW_MACHINE = """
import time
from modelsync_server.cli import main
from modelsync_server.publish import tasks
updates = tasks.updates
def slowly(*given, **named):
    time.sleep(5)
    return updates(*given, **named)
tasks.updates = slowly
main()
"""
_ON_A_SLOW_DISK = """
import asyncio
from modelsync_server.cli import main
from modelsync_server.store.directory import DirectoryStore
delete = DirectoryStore.delete
async def slowly(self, path):
    await asyncio.sleep(0.1)
    await delete(self, path)
DirectoryStore.delete = slowly
main()
"""


def test_an_interrupted_gc_leaves_no_mark_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    assert modelsync("init", tmp_path / "store", folder=tmp_path).communicate() is not None
    junk = tmp_path / "store" / "packs"
    junk.mkdir(exist_ok=True)
    for number in range(1000):
        (junk / f"{number:064x}").write_bytes(bytes(100))
    words = ("gc", tmp_path / "store", "--older-than", "0", "--progress", "json")
    process = modelsync(*words, folder=tmp_path, program=(sys.executable, "-c", _ON_A_SLOW_DISK))
    assert process.stderr is not None and process.stdout is not None
    seen = ""
    while "deleting" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(timeout=30) == 130, said
    assert said.splitlines()[-1].startswith("modelsync: interrupted: run it again") and "Traceback" not in said
    assert process.stdout.read() == "" and not (tmp_path / "store" / MARK).exists()
    left = len(list(junk.iterdir()))  # all of them, if it was quick to hear
    assert left > 0
    out, events = modelsync(*words, "--json", folder=tmp_path).communicate()
    assert json.loads(out)["objects"] == left and list(junk.iterdir()) == []
    assert stages(events)[-1] == "done" and "looking at ages" in stages(events)
