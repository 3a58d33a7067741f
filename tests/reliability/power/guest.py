"""What runs in the power-cut machine, as its only program: `guest.py … mode=MODE …`, from the kernel's command line.

It says one JSON line an event on the console. It knows nothing of when the power will go.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modelsync_daemon.oneshot  # before the fork, so that a cut strikes the update and not its imports
import modelsync_daemon.workers.job_runner  # noqa: F401
from modelsync_daemon import cli
from modelsync_daemon.disk.datadir import DataDir
from tests.reliability.promises import check_no_garbage, check_serves, check_settled

NAME, OTHER, TARGET = "anomaly", "other", 3
ORIGIN = "http://10.0.2.100"
DATA = Path("/data/modelsync")
DEVICE = "/dev/mapper/logged"


def say(event: str, **more: Any) -> None:
    """One line on the console."""
    os.write(1, f"\n{json.dumps({'event': event, **more})}\n".encode())


def update(*, durable: bool) -> int:
    """`modelsyncd pull` in a forked child; its exit code. Not `durable`: its fsync does nothing."""
    pid = os.fork()
    if pid == 0:
        try:
            if not durable:
                setattr(os, "fsync", lambda descriptor: None)  # noqa: B010
                setattr(os, "fdatasync", lambda descriptor: None)  # noqa: B010
            trust = str(next((DATA.parent / "trust").iterdir()))
            options = ["--data", str(DATA), "--trust", trust, "--json", "--version", str(TARGET)]
            with contextlib.redirect_stdout(io.StringIO()):
                cli.main(["pull", NAME, "--origin", ORIGIN, *options])  # never returns
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def mount(device: str) -> None:
    """What a boot does: the file system goes through its journal."""
    subprocess.run(["mount", "-t", "ext4", device, "/data"], check=True)


def recover() -> None:
    """Says what is found after a cut, then goes on to the target, and says what is found then."""
    data = DataDir(DATA)
    try:
        check_serves(data, OTHER)
        say("found", serving=check_serves(data, NAME).version, journaled=journaled(data))
        code = update(durable=True)
        assert code == 0, f"the next pull exits with {code}"
        assert check_serves(data, NAME).version == TARGET, "the target is not reached"
        check_serves(data, OTHER)
        check_settled(data, NAME)
        check_no_garbage(data)
        say("recovered")
    except Exception as error:
        say("wrong", error=f"{type(error).__name__}: {error}")


def journaled(data: DataDir) -> int:
    """Payload bytes that the journal counts as durable."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(data.state_db)) as connection:
        row = connection.execute("SELECT payload_bytes FROM journal WHERE name = ?", (NAME,)).fetchone()
        return int(row[0]) if row else 0
    return 0


def cycle(options: dict[str, str]) -> None:
    """Recover from the last cut, unless this is the first boot; then begin a fresh update and wait for the cut."""
    mount("/dev/vda")
    if options["first"] == "no":
        recover()
    shutil.rmtree(DATA, ignore_errors=True)
    shutil.rmtree(DATA.parent / "trust", ignore_errors=True)
    shutil.copytree("/template", "/data", symlinks=True, dirs_exist_ok=True)
    os.sync()
    say("begins")
    code = update(durable=True)
    say("ends", code=code)
    time.sleep(600)


def record(options: dict[str, str]) -> None:
    """An update on a device whose writes and flushes are logged on the second disk."""
    size = int(Path("/sys/block/vda/size").read_text())
    dmsetup("create", "logged", "--table", f"0 {size} log-writes /dev/vda /dev/vdb")
    mount(DEVICE)
    dmsetup("message", "logged", "0", "mark begins")
    code = update(durable=options["durable"] == "yes")
    dmsetup("message", "logged", "0", "mark ends")
    say("ends", code=code)
    # Nobody unmounts: what waits in memory is logged behind the mark when the file system gets round to it.
    time.sleep(float(options["linger"]))
    subprocess.run(["umount", "/data"], check=True)
    dmsetup("remove", "logged")
    os.sync()
    say("recorded")


def verify(options: dict[str, str]) -> None:
    """Every disk is one crash state: recover from each."""
    for letter in options["letters"]:
        say("disk", letter=letter)
        try:
            mount(f"/dev/vd{letter}")
        except subprocess.CalledProcessError:
            say("wrong", error="the file system can't be mounted")
            continue
        recover()
        subprocess.run(["umount", "/data"], check=True)
    say("verified")


def dmsetup(*arguments: str) -> None:
    """No udev runs here: it makes its nodes itself."""
    program = next(path for path in ("/usr/sbin/dmsetup", "/sbin/dmsetup") if Path(path).exists())
    subprocess.run([program, *arguments], check=True, env={**os.environ, "DM_DISABLE_UDEV": "1"})


MODES: dict[str, Callable[[dict[str, str]], None]] = {"cycle": cycle, "record": record, "verify": verify}


def main() -> None:
    """The mode that the command line names."""
    options = dict(part.split("=", 1) for part in sys.argv[1:] if "=" in part)
    try:
        MODES[options["mode"]](options)
    except BaseException as error:
        traceback.print_exc()
        say("broken", error=repr(error))


if __name__ == "__main__":
    main()
