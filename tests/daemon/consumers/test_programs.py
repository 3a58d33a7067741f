"""An application's program: confined, bounded in time, and nothing of it is left, whatever it forks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

import pytest

from modelsync_daemon.activate.consumer import NotServing
from modelsync_daemon.confinement import landlock
from modelsync_daemon.consumers import programs
from modelsync_daemon.consumers.programs import Bounds
from tests.support.waiting import until

FREE = Bounds(confined=False)
confined = pytest.mark.skipif(not landlock.version(), reason="LOUD: not confined: this kernel has no Landlock")


async def run(*argv: str, seconds: float = 5.0, bounds: Bounds = FREE, **values: str) -> str:
    return await programs.run(argv, seconds, bounds, values)


def processes_with(mark: str) -> list[str]:
    """Processes whose command line holds `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and mark in (entry / "cmdline").read_text().split("\0"):
                found.append(entry.name)
    return found


async def test_it_gets_a_clean_environment_and_what_there_is_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "abc")
    bounds = Bounds(confined=False, environment={"MODE": "fast"})
    said = await run("/usr/bin/env", bounds=bounds, path="/m/2-f", version="2", previous_version="1", generation="7")
    variables = dict(line.split("=", 1) for line in said.splitlines())
    assert variables == {
        "PATH": variables["PATH"],
        "LANG": "C.UTF-8",
        "MODE": "fast",
        "MODELSYNC_PATH": "/m/2-f",
        "MODELSYNC_VERSION": "2",
        "MODELSYNC_PREVIOUS_VERSION": "1",
        "MODELSYNC_GENERATION": "7",
    }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("/bin/sh", "-c", "echo no such layer >&2; exit 3"), "sh ended with 3: no such layer"),
        (("/bin/sh", "-c", "kill -SEGV $$"), "sh was killed by signal 11."),
        (("/nowhere/tool",), "tool ended with 127: it can't be started: No such file or directory"),
    ],
)
async def test_a_program_that_fails_is_quoted(argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(NotServing) as caught:
        await run(*argv)
    assert str(caught.value) == words


async def test_a_shell_is_nowhere() -> None:
    assert await run("/bin/echo", "$HOME; id") == "$HOME; id\n"


@pytest.mark.parametrize(
    "script",
    [
        "sleep {mark}",
        "trap '' TERM HUP INT; sleep {mark}; sleep {mark}",
        "setsid sh -c 'setsid sleep {mark} & setsid sleep {mark}' & setsid setsid sleep {mark} & wait",
    ],
)
async def test_nothing_of_one_that_hangs_survives_its_time(script: str) -> None:
    mark = f"8{os.getpid()}.{abs(hash(script)) % 1000}"
    begin = time.monotonic()
    with pytest.raises(NotServing, match=r"did not end within 0.5 s and was killed"):
        await run("/bin/sh", "-c", script.format(mark=mark), seconds=0.5)
    assert not processes_with(mark) and time.monotonic() - begin < 30


async def test_one_that_forks_and_leaves_is_told_on_and_leaves_nothing() -> None:
    mark = f"7{os.getpid()}.5"
    with pytest.raises(NotServing, match=r"ended and left 2 process.* started by a service manager"):
        await run("/bin/sh", "-c", f"setsid sleep {mark} & sleep {mark} & exit 0")
    assert not processes_with(mark)


async def test_the_last_of_a_pipe_may_end_after_the_program() -> None:
    assert await run("/bin/sh", "-c", "(sleep 0.2) & echo done") == "done\n"


async def test_one_that_forks_without_end_is_outrun() -> None:
    mark = f"6{os.getpid()}.5"
    forks = (
        "import os, time\nend, most = time.monotonic() + 20, len(os.listdir('/proc')) + 100\n"
        "while time.monotonic() < end:\n"
        "    os.fork() and time.sleep(0.05) if len(os.listdir('/proc')) < most else time.sleep(0.2)"
    )
    with pytest.raises(NotServing, match="was killed"):
        await run(sys.executable, "-c", forks, mark, seconds=0.4)
    assert not processes_with(mark)


async def test_cancelling_ends_it_too() -> None:
    mark = f"5{os.getpid()}.5"
    task = asyncio.ensure_future(run("/bin/sh", "-c", f"setsid sleep {mark} & sleep {mark}", seconds=60))
    await until(lambda: len(processes_with(mark)) >= 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not processes_with(mark)


async def test_it_ends_with_the_daemon() -> None:
    """Whoever waits is killed without a word: the launcher sees its pipe close."""
    mark = f"4{os.getpid()}.5"
    code = (
        "import asyncio\nfrom modelsync_daemon.consumers import programs\n"
        f"asyncio.run(programs.run(['/bin/sh', '-c', 'setsid sleep {mark} & sleep {mark}'], 60, "
        "programs.Bounds(confined=False), {}))"
    )
    waiting = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await until(lambda: len(processes_with(mark)) >= 2)
    waiting.kill()
    await waiting.wait()
    await until(lambda: not processes_with(mark))


async def test_a_signal_to_its_starter_changes_nothing() -> None:
    assert await run("/bin/sh", "-c", "kill -HUP $PPID; kill -TERM $PPID; echo here") == "here\n"


@confined
async def test_it_reads_its_model_and_the_system_and_writes_nothing(tmp_path: Path) -> None:
    model, secret = tmp_path / "models" / "m" / "1-a", tmp_path / "origin.sas"
    model.mkdir(parents=True)
    (model / "weights").write_text("w")
    secret.write_text("sig=")
    bounds = Bounds()
    assert await run("/bin/cat", str(model / "weights"), bounds=bounds, path=str(model)) == "w"
    for refused in (
        ("/bin/cat", str(secret)),
        ("/bin/cat", "/etc/shadow"),
        ("/bin/sh", "-c", f"echo x > {model}/weights"),
        ("/bin/sh", "-c", f"echo x > {tmp_path}/more"),
        ("/bin/cat", f"/proc/{os.getpid()}/mem"),
    ):
        with pytest.raises(NotServing, match="Permission denied"):
            await run(*refused, bounds=bounds, path=str(model))
    wider = Bounds(read=(secret,), write=(tmp_path,))
    assert await run("/bin/sh", "-c", f"cat {secret}; echo x > {tmp_path}/more", bounds=wider) == "sig="
    assert (tmp_path / "more").read_text() == "x\n" and (model / "weights").read_text() == "w"


@confined
@pytest.mark.skipif(landlock.version() < 4, reason="LOUD: TCP not bounded: this kernel's Landlock can't")
async def test_it_has_tcp_only_if_it_is_given() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    code = f"exec 3<>/dev/tcp/127.0.0.1/{server.sockets[0].getsockname()[1]} && echo through"
    async with server:
        with pytest.raises(NotServing, match="Permission denied"):
            await run("/bin/bash", "-c", code, bounds=Bounds())
        assert await run("/bin/bash", "-c", code, bounds=Bounds(network=True)) == "through\n"


async def test_without_landlock_nothing_runs_where_confinement_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(NotServing, match="require_confinement is set"):
        await run("/bin/echo", bounds=Bounds(required=True))
