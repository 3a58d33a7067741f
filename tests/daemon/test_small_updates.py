"""What a small update waits for: the disk a few times, no journal; and what its processes don't import for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.build import target_tree
from modelsync_daemon.disk.database import Database
from modelsync_daemon.trust.resolved import Resolved
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_protocol.errors import RefusedError
from tests.support.budgets import within
from tests.support.certificates import Authority
from tests.support.pulling import Device
from tests.support.scripted_origin import Answer, Exchange, ScriptedOrigin
from tests.support.shop import Shop

OLD = b"".join(number.to_bytes(4, "little") for number in range(1500))
NEW = OLD[:3000] + b"changed" + OLD[3007:]


async def _field(root: Path) -> tuple[Shop, Device]:
    """A store with two small versions of m, and a device that holds the first."""
    shop = await Shop.open(root)
    await shop.publish_bytes("m", OLD)
    device = Device(root / "device", shop.trust)
    async with ScriptedOrigin(shop.path, parcels=True) as origin:
        await device.pull("m", origin.url)
    await shop.publish_bytes("m", NEW)
    return shop, device


async def test_a_small_update_waits_for_the_disk_less_than_20_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From resolving to a pointer; each wait is up to 20 ms on an SD card."""
    shop, device = await _field(tmp_path)
    waits: list[str] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def counted(descriptor: int, real: Any = real) -> None:
            waits.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            real(descriptor)

        monkeypatch.setattr(os, name, counted)
    transaction = Database.transaction

    def commit(self: Database, *, synced: bool = True) -> Any:
        waits.extend(["state.db"] * synced)
        return transaction(self, synced=synced)

    monkeypatch.setattr(Database, "transaction", commit)
    async with ScriptedOrigin(shop.path, parcels=True) as origin:
        await device.pull("m", origin.url)
    assert device.files("m") == {"model.bin": NEW}
    assert any(path.endswith("current.json") or ".modelsync-" in path for path in waits), "nothing was counted"
    within("waits for the disk of a small update, from resolving to the pointer", len(waits), 19, "times")


async def test_a_small_build_that_was_killed_is_begun_anew_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, device = await _field(tmp_path)

    class Killed(BaseException):
        pass

    def killed(self: object, *_: object) -> None:
        raise Killed

    async with ScriptedOrigin(shop.path, parcels=True) as origin:
        with monkeypatch.context() as patch:
            patch.setattr(target_tree.Assembly, "finish", killed)
            with pytest.raises(Killed):
                await device.pull("m", origin.url)
        assert [path.name for path in (device.data.root / "incoming" / "m").iterdir()] == ["tree"], "no journal"
        prepared = await device.pull("m", origin.url)
    assert prepared.plan.kind == "update" and device.files("m") == {"model.bin": NEW}
    assert not list((device.data.root / "incoming").iterdir())


def test_a_commit_that_is_not_waited_for_outlives_a_kill_and_the_next_ones_are_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    code = (
        "import os, sys, pathlib\nfrom modelsync_daemon.disk.database import Database\n"
        "database = Database(pathlib.Path(sys.argv[1]))\n"
        "database.transition('m', 'resolving', synced=False)\n"
        "print(database.connection.execute('PRAGMA synchronous').fetchone()[0], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "2\n"), "2: FULL"
    database = Database(path)
    assert database.model("m").state == "resolving"
    database.close()


def _said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_of_ours_imports_aiohttp_without_certificates_and_what_forgets_its_context_trusts_nobody() -> None:
    out = _said("""
import ssl
from modelsync_daemon.workers import lean_imports
lean_imports.import_aiohttp()
from aiohttp import connector
own = connector._SSL_CONTEXT_VERIFIED
print(len(own.get_ca_certs()), own.verify_mode == ssl.CERT_REQUIRED, own.check_hostname)
print("set_default_verify_paths" in vars(ssl.SSLContext))
""")
    assert out == "0 True True\nFalse\n"


def test_a_process_of_ours_imports_no_urllib3_for_python_tuf_and_its_fetcher_can_not_be_made() -> None:
    out = _said("""
import sys
from modelsync_daemon.trust import publishers_only
publishers_only.leave_out()
import modelsync_daemon.trust.tuf_refresh
from tuf.ngclient import Urllib3Fetcher
try:
    Urllib3Fetcher()
except NotImplementedError:
    print("urllib3" in sys.modules)
""")
    assert out == "False\n"


async def test_a_process_of_ours_imports_no_signers_and_refuses_a_root_with_a_key_that_only_they_know(
    tmp_path: Path,
) -> None:
    shop = await Shop.open(tmp_path)
    out = _said(f"""
import json, sys
from modelsync_daemon.trust import publishers_only
publishers_only.leave_out()
from modelsync_daemon.trust import tuf_refresh
from modelsync_protocol.errors import RefusedError
root = json.load(open({str(shop.trust)!r}))
tuf_refresh.check_root(json.dumps(root).encode())
for key in root["signed"]["keys"].values():
    key.update(keytype="rsa", scheme="pgp+rsa-pkcsv1.5")
try:
    tuf_refresh.check_root(json.dumps(root).encode())
except RefusedError:
    print(sorted(name for name in sys.modules if "_gpg" in name))
""")
    assert out == "['securesystemslib.signer._gpg_signer']\n", "its stand-in, and nothing behind it"


async def test_what_is_believed_is_on_its_way_before_anybody_checks_it_and_asked_for_once(tmp_path: Path) -> None:
    """A child of a worker is importing by then."""
    shop, device = await _field(tmp_path)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Late(TrustStore):
        def resolve(self, *about: Any, **options: Any) -> Resolved:
            asyncio.run_coroutine_threadsafe(asyncio.wait_for(asked.wait(), 30), loop).result()
            return super().resolve(*about, **options)

    async with ScriptedOrigin(shop.path, parcels=True) as origin:

        def seen(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
            asked.set()
            return answer

        origin.fault = seen
        device.open_trust = Late
        await device.pull("m", origin.url)
        assert len(origin.exchanges) == 1, [exchange.path for exchange in origin.exchanges]
    assert device.files("m") == {"model.bin": NEW}


async def test_where_nobody_asks_for_it_the_request_is_given_up(tmp_path: Path) -> None:
    _, device = await _field(tmp_path)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Refusing(TrustStore):
        def resolve(self, *about: Any, **options: Any) -> Resolved:
            asyncio.run_coroutine_threadsafe(asyncio.wait_for(asked.wait(), 30), loop).result()
            raise RefusedError("nothing is believed here")

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # until the device hangs up
        writer.close()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        device.open_trust = Refusing
        with pytest.raises(RefusedError, match="nothing is believed"):
            await device.pull("m", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", stall_seconds=60.0)


async def test_a_signal_for_the_whole_terminal_stops_a_pull_with_one_sentence(tmp_path: Path) -> None:
    """Its child, which waits to be asked, gets the signal too."""
    shop = await Shop.open(tmp_path)
    asked = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        pull = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from modelsync_daemon.cli import main; main()", "pull", "m",
            "--origin", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            "--data", str(tmp_path / "device"), "--trust", str(shop.trust),
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        await asked.wait()
        os.killpg(pull.pid, signal.SIGINT)
        _, said = await asyncio.wait_for(pull.communicate(), 60)
    assert (pull.returncode, said.decode()) == (
        4,
        "modelsyncd: stopped by a signal; run the same command to go on where it stopped.\n",
    )


def test_a_pull_of_its_own_checks_trust_in_a_child_and_never_imports_python_tuf(tmp_path: Path) -> None:
    """Else it would wait for that import, and have its memory while it builds."""
    out = _said(f"""
import os, sys
from pathlib import Path
from modelsync_daemon import cli
from modelsync_daemon.workers import job_runner
from modelsync_protocol.errors import RefusedError

async def looking(job, database, emit, open_trust):
    print(sorted({{"tuf", "cryptography", "aiohttp"}} & set(sys.modules)), os.waitpid(-1, os.WNOHANG))
    try:
        open_trust(Path(job.data) / "trust").resolve("m", None, lambda path, limit: b"")
    except RefusedError as error:
        print(error)
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("no child any more")
    sys.stdout.flush()
    os._exit(0)

job_runner.run = looking
cli.main(["pull", "m", "--origin", "http://127.0.0.1:9", "--data", {str(tmp_path / "device")!r}])
""")
    assert out.splitlines() == [
        "['aiohttp'] (0, 0)",
        "this data directory trusts nobody yet: give it a root.json with --trust.",
        "no child any more",
    ]


async def test_a_redirect_to_tls_is_checked_against_the_origins_certificates(tmp_path: Path) -> None:
    """aiohttp's own context is not used: it may know no certificates."""
    shop, device = await _field(tmp_path)
    known, stranger = Authority(tmp_path / "known"), Authority(tmp_path / "stranger", "another")
    async with (
        ScriptedOrigin(shop.path, parcels=True, tls=known.server()) as secure,
        ScriptedOrigin(shop.path, parcels=True) as origin,
    ):

        def elsewhere(exchange: Exchange, answer: Answer, whole: bytes) -> Answer:
            return Answer(302, b"", {"Location": f"{secure.url}/{exchange.path}"})

        origin.fault = elsewhere
        with pytest.raises(Exception, match=r"certificate of 127\.0\.0\.1 is not trusted"):
            await device.pull("m", origin.url, origin_ca=stranger.path)
        await device.pull("m", origin.url, origin_ca=known.path)
    assert device.files("m") == {"model.bin": NEW}
