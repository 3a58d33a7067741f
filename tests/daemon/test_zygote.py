"""Workers that are forked off a zygote: they run, they are told from dead ones, and a dead zygote is no dead end."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap


def run(body: str) -> str:
    """Run `body` in a process without threads, where `zygote` is started and `lock` is a descriptor."""
    script = f"""
import asyncio, os, signal, sys
from modelsync_daemon.workers.zygote import Zygote, ZygoteGone
zygote = Zygote.start()
lock = os.open("/dev/null", os.O_RDONLY)
async def main():
{textwrap.indent(textwrap.dedent(body), "    ")}
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_before_it_forks_the_zygote_holds_what_resident_and_worker_share_and_nothing_heavy() -> None:
    out = run("""
        heavy = {"azure", "cryptography", "modelsync_core", "numpy", "requests", "securesystemslib", "tuf", "urllib3",
                 "yaml", "zstandard"}
        ours = ("build", "consumers", "site", "reconcile", "activate", "control", "trust.tuf_refresh",
                "workers.job_runner")
        held = {name for name in sys.modules if not sys.modules[name] is None}
        print(sorted(held & heavy))
        print(sorted(name for name in held if name.startswith(tuple(f"modelsync_daemon.{room}" for room in ours))))
        print("modelsync_daemon.transfer.origin_client" in held)
    """)
    assert out == "[]\n[]\nTrue\n", "what the zygote imports, every worker's memory pays for"


def test_the_zygote_holds_what_a_job_needs_but_no_cryptography_and_the_resident_none_of_it() -> None:
    """So a worker imports nothing after a notice, and an idle device pays 2 MiB for it, not 10."""
    out = run("""
        child = await zygote.spawn(lock)
        parent = int(open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()[1])
        maps = open(f"/proc/{parent}/maps").read()
        print([name for name in ("zstandard", "cryptography", "numpy") if f"/{name}/" in maps])
        print([name for name in ("zstandard", "modelsync_daemon.workers.job_runner") if name in sys.modules])
        child.kill()
    """)
    assert out == "['zstandard']\n[]\n"


def test_a_worker_imports_nothing_that_the_zygote_has_not() -> None:
    """What it imported by itself, each job would wait for."""
    script = """
import sys
from modelsync_daemon.workers import lean_imports, worker
from modelsync_daemon.workers.zygote import _SHARED
lean_imports.import_aiohttp()
worker.import_what_a_job_needs()
held = set(sys.modules)
import modelsync_daemon.trust.trust_process, modelsync_daemon.workers.bounds, modelsync_daemon.workers.job_runner
print(sorted(set(sys.modules) - held), "tuf.api.metadata" in held)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[] False\n"


def test_checking_trust_imports_no_signers_of_clouds_even_where_they_are_installed() -> None:
    script = (
        "import sys; from modelsync_daemon.trust import publishers_only; publishers_only.leave_out()\n"
        "import modelsync_daemon.trust.tuf_refresh\n"
        "print(sorted({name.partition('.')[0] for name, module in sys.modules.items() if module}"
        " & {'azure', 'boto3', 'botocore', 'google', 'hvac', 'msal', 'requests'}))"
    )
    assert importlib.util.find_spec("azure.identity"), "without it this test proves nothing"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout == "[]\n"


def test_worker_without_a_job_ends_with_zero() -> None:
    assert (
        run("""
        child = await zygote.spawn(lock)
        child.stdin.close()
        print(await child.wait())
    """)
        == "0\n"
    )


def test_workers_come_one_after_the_other_and_a_killed_one_is_known_by_its_signal() -> None:
    assert (
        run("""
        for _ in range(3):
            child = await zygote.spawn(lock)
            child.kill()
            print(await child.wait())
    """)
        == "-9\n" * 3
    )


def test_worker_answers_a_job_that_can_not_be_done_with_an_error_event() -> None:
    out = run("""
        child = await zygote.spawn(lock)
        child.stdin.write(b'{"name": "m", "version": 1}\\n')
        await child.stdin.drain()
        print((await child.stdout.readline()).decode())
        print(await child.wait())
    """)
    assert '"event": "error"' in out and out.endswith("0\n")


def test_dead_zygote_is_noticed() -> None:
    out = run("""
        child = await zygote.spawn(lock)
        parent = int(open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        try:
            await zygote.spawn(lock)
        except ZygoteGone:
            print("gone")
    """)
    assert out == "gone\n"


def test_zygote_and_worker_die_with_the_resident() -> None:
    out = run("""
        child = await zygote.spawn(lock)
        parent = int(open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()[1])
        print(parent, child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL) if os.fork() == 0 else os._exit(0)
    """)
    for pid in out.split():
        deadline = subprocess.run(["timeout", "10", "tail", f"--pid={pid}", "-f", "/dev/null"], check=False)
        assert deadline.returncode == 0, f"process {pid} outlived the resident"
