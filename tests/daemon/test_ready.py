"""The worker that is ready before its job: it is used, ended when nothing comes, and replaced where it died."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run(body: str) -> str:
    """Run `body` in a process without threads with a zygote, `preparer` on it, and helpers."""
    script = f"""
import asyncio, os, signal, sys
from pathlib import Path
from modelsync_daemon.workers.zygote import Zygote
zygote = Zygote.start()
from modelsync_daemon.disk.datadir import Lock
from modelsync_daemon.workers import ready
from modelsync_daemon.workers.messages import Job
from modelsync_daemon.workers.worker_client import ChildPreparer
from modelsync_protocol.errors import ModelsyncError
lock = Lock(os.open("/dev/null", os.O_RDONLY))

spawn, spawned = zygote.spawn, []

async def counted(*args, **options):
    child = await spawn(*args, **options)
    spawned.append(str(child.pid))
    return child

zygote.spawn = counted

def workers():  # children of the zygote
    zygote_pid = Path(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read_text().split()[0]
    return Path(f"/proc/{{zygote_pid}}/task/{{zygote_pid}}/children").read_text().split()

def imported(pid):  # by its child, who checks trust
    below = Path(f"/proc/{{pid}}/task/{{pid}}/children").read_text().split()
    return any("/cryptography/" in Path(f"/proc/{{one}}/maps").read_text() for one in below)

async def until(true):
    while not true():
        await asyncio.sleep(0.01)

async def prepare(preparer):
    events = []
    try:
        await preparer.prepare(Job("m", 1, "http://127.0.0.1:9", "/proc/none"), events.append)
    except ModelsyncError as error:
        return type(error).__name__

async def main():
{textwrap.indent(textwrap.dedent(body), "    ")}

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_after_a_notice_a_worker_waits_with_all_that_a_job_needs_and_is_the_one_that_gets_it() -> None:
    out = run("""
        preparer = ChildPreparer(lock, zygote=zygote)
        preparer.expect()
        preparer.expect()
        await until(lambda: spawned and imported(spawned[0]))
        print(await prepare(preparer), len(spawned), workers())
        await preparer.close()
    """)
    assert out == "WorkerDied 1 []\n", "the job went to another worker, or one stayed behind"


def test_a_worker_that_no_job_comes_for_is_ended_and_after_three_in_vain_none_is_made_until_one_comes() -> None:
    out = run("""
        ready._KEPT_SECONDS = 0.05
        preparer = ChildPreparer(lock, zygote=zygote)

        async def notices():
            for _ in range(5):
                preparer.expect()
                await until(lambda: preparer._ready._task is None)
            print(len(spawned), workers())
            spawned.clear()

        await notices()
        print(await prepare(preparer), len(spawned))
        spawned.clear()
        await notices()
        await preparer.close()
    """)
    assert out.splitlines() == ["3 []", "WorkerDied 1", "3 []"]


def test_where_a_worker_always_waits_the_next_one_is_made_after_each_job() -> None:
    out = run("""
        ready._AGAIN_SECONDS = 0.01
        preparer = ChildPreparer(lock, zygote=zygote, always_ready=True)
        preparer.expect()
        for count in range(1, 4):
            await until(lambda: len(spawned) == count and preparer._ready._child)
            await prepare(preparer)
        await until(lambda: len(spawned) == 4)
        await preparer.close()
        print(len(spawned), workers())
    """)
    assert out == "4 []\n"


def test_the_outcome_is_not_kept_until_the_worker_is_gone_and_the_next_job_and_the_end_are() -> None:
    """Its memory takes the kernel milliseconds, in which the version could serve; two at a time would be too large."""
    out = run("""
        preparer = ChildPreparer(lock, zygote=zygote)
        gone = asyncio.Event()
        outcome = object()

        class Child:
            pid = 0
            def kill(self):
                pass
            async def wait(self):
                await gone.wait()
                return 0

        async def start():
            spawned.append("one")
            return Child()

        async def converse(child, job, on_event):
            return outcome

        preparer._start, preparer._converse = start, converse
        job = Job("m", 1, "http://127.0.0.1:9", "/proc/none")
        print(await preparer.prepare(job, print) is outcome)
        second = asyncio.ensure_future(preparer.prepare(job, print))
        end = asyncio.ensure_future(preparer.close())
        for _ in range(100):
            await asyncio.sleep(0)
        print(len(spawned), second.done(), end.done())
        gone.set()
        print(await second is outcome, len(spawned))
        await end
    """)
    assert out.splitlines() == ["True", "1 False False", "True 2"]


def test_one_that_was_killed_while_it_waited_is_replaced() -> None:
    out = run("""
        preparer = ChildPreparer(lock, zygote=zygote)
        preparer.expect()
        await until(lambda: preparer._ready._child)
        os.kill(int(spawned[0]), signal.SIGKILL)
        await until(preparer._ready._child.stdout.at_eof)
        print(await prepare(preparer), len(spawned))
        await preparer.close()
    """)
    assert out == "WorkerDied 2\n"


def test_a_job_that_is_given_up_while_its_worker_is_forked_leaves_none_behind_and_the_next_gets_its_own() -> None:
    out = run("""
        for _ in range(20):
            work = asyncio.ensure_future(zygote.spawn(lock.fileno()))
            await asyncio.sleep(0)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        child = await zygote.spawn(lock.fileno())
        print([str(child.pid)] == workers())
        child.kill()
        print(await child.wait())
    """)
    assert out == "True\n-9\n"
