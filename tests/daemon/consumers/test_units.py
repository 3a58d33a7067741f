"""Units, signals and the bus: what systemd's programs are asked, and what their answers mean.

Those programs are stand-ins here; tests/systemd restarts a real unit.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_daemon.activate.consumer import NotServing, NotThere
from modelsync_daemon.consumers import processes, tools
from modelsync_daemon.consumers.actions import DbusAction, SignalAction, UnitAction
from modelsync_daemon.consumers.checks import SocketCheck, UnitCheck
from modelsync_daemon.consumers.programs import Bounds
from tests.support.addresses import free_port

_SYSTEMCTL = """#!/bin/sh
echo "$0 $*" >> {log}
case "$*" in
  *show*) cat {state};;
  *"{fails}"*) echo "Job for detector.service failed." >&2; exit 1;;
esac
"""


class Systemd:
    """`systemctl` and `busctl` that write down what they are asked."""

    def __init__(self, folder: Path, fails: str = "nothing") -> None:
        self.log, self._state = folder / "log", folder / "state"
        for name in ("systemctl", "busctl"):
            program = folder / name
            program.write_text(_SYSTEMCTL.format(log=self.log, state=self._state, fails=fails))
            program.chmod(0o755)
        self.is_in("active")

    def is_in(self, active: str, load: str = "loaded", invocation: str = "a1") -> None:
        """What `show` says."""
        self._state.write_text(f"LoadState={load}\nActiveState={active}\nSubState=x\nInvocationID={invocation}\n")

    def asked(self) -> list[str]:
        """The calls, without those that only look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [
            line.partition("/systemctl ")[2] or line.partition("/busctl ")[2] for line in lines if " show " not in line
        ]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setattr(tools, "_PATH", str(tmp_path))
    monkeypatch.setattr(tools, "Bounds", lambda: Bounds(read=(tmp_path,), write=(tmp_path,)))
    return Systemd(tmp_path)


async def test_a_unit_is_restarted_even_if_it_failed_too_often(systemd: Systemd) -> None:
    await UnitAction("restart", "detector.service").perform({}, 5)
    await UnitAction("reload", "detector.service").perform({}, 5)
    await SignalAction(signal.SIGHUP, unit="detector.service").perform({}, 5)
    options = "--no-ask-password --no-pager --quiet"
    assert systemd.asked() == [
        f"{options} reset-failed -- detector.service",
        f"{options} restart -- detector.service",
        f"{options} reload -- detector.service",
        f"{options} kill --kill-who=main --signal=SIGHUP -- detector.service",
    ]


async def test_a_job_that_fails_is_quoted(tmp_path: Path, systemd: Systemd) -> None:
    Systemd(tmp_path, fails="restart")
    with pytest.raises(NotServing, match=r"systemctl ended with 1: Job for detector.service failed\."):
        await UnitAction("restart", "detector.service").perform({}, 5)


async def test_whether_there_is_a_unit_to_tell(systemd: Systemd) -> None:
    restart, reload = UnitAction("restart", "d.service"), UnitAction("reload", "d.service")
    systemd.is_in("failed")
    await restart.reach(5)
    with pytest.raises(NotThere, match=r"d.service is failed\.") as caught:
        await reload.reach(5)
    assert caught.value.passing
    systemd.is_in("inactive", load="not-found")
    with pytest.raises(NotThere, match=r"there is no unit d.service\.") as caught:
        await restart.reach(5)
    assert not caught.value.passing and not systemd.asked()


async def test_a_unit_that_is_not_active_is_not_ready_and_each_run_has_its_mark(systemd: Systemd) -> None:
    check = UnitCheck("d.service")
    assert await check.look({}, 5) == "a1"
    systemd.is_in("active", invocation="b2")
    assert await check.look({}, 5) == "b2"
    systemd.is_in("activating")
    with pytest.raises(NotServing, match=r"d.service is activating \(x\)"):
        await check.look({}, 5)


async def test_a_method_on_the_bus(systemd: Systemd) -> None:
    action = DbusAction("org.x.App", "/org/x", "org.x.App", "Load", "su", ("{path}", "{version}"))
    await action.perform({"path": "/m/2 b", "version": "2"}, 5)
    assert systemd.asked() == ["--system --quiet --timeout=5s call -- org.x.App /org/x org.x.App Load su /m/2 b 2"]


async def test_a_machine_without_systemd_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_PATH", str(tmp_path))
    with pytest.raises(NotThere, match="systemctl is not on this machine"):
        await UnitAction("restart", "d.service").reach(5)


def test_a_pidfile_names_one_living_process(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(NotThere, match="can't be read"):
        processes.of(file)
    for text in ("", "x", "1", "-5"):
        file.write_text(text)
        with pytest.raises(NotThere, match="holds no process id"):
            processes.of(file)
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    done.wait()
    file.write_text(f"{done.pid}\n")
    with pytest.raises(NotThere, match="which is not there"):
        processes.of(file)
    file.write_text(f"{os.getpid()}\n")
    assert processes.of(file).pid == os.getpid()
    with pytest.raises(NotThere, match="and not nginx"):
        processes.of(file, "nginx")


async def test_a_signal_by_pidfile(tmp_path: Path) -> None:
    code = "import signal\nprint('up', flush=True)\nsignal.sigwait({signal.SIGHUP})\nprint('hup', flush=True)"
    blocked = f"import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n{code}"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", blocked, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None and await process.stdout.readline() == b"up\n"
    (tmp_path / "pid").write_text(str(process.pid))
    await SignalAction(signal.SIGHUP, pidfile=tmp_path / "pid").perform({}, 5)
    assert await process.stdout.readline() == b"hup\n"
    await process.wait()


async def test_a_socket_that_nobody_listens_at(tmp_path: Path) -> None:
    for address in (f"127.0.0.1:{free_port()}", str(tmp_path / "none")):
        with pytest.raises(NotServing, match="takes no connection"):
            await SocketCheck(address).look({}, 5)
