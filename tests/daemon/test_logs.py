"""The daemon's log: its formats, what never stands in it, and how it is asked for."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelsync_daemon.local import logs
from modelsync_daemon.workers.messages import Job, Outcome
from modelsync_daemon.workers.worker_client import ChildPreparer
from tests.support.azure_world import NAME, Cloud, cloud
from tests.support.shop import Shop

COMMAND = Path(sys.executable).with_name("modelsyncd")


def _record(text: str, *arguments: object, level: int = logging.WARNING, **extra: object) -> logging.LogRecord:
    return logging.getLogger("modelsync_daemon.x").makeRecord(
        "modelsync_daemon.x", level, __file__, 1, text, arguments, None, extra=extra
    )


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("GET https://a.blob.core.windows.net/m/x?sv=2024&sig=aGVsbG8%3D&se=1 failed", "aGVsbG8"),
        ("HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0c2VjcmV0 is wrong", "c2VjcmV0"),
        ("SharedAccessSignature=abcdef expired", "abcdef"),
        ("proxy http://user:geheim@10.0.0.1:3128 refused", "geheim"),
        ("https://b.s3.amazonaws.com/k?X-Amz-Signature=deadbeef&X-Amz-Date=1", "deadbeef"),
        ("Authorization: Bearer eyJhbGciOi.J9 refused", "eyJhbGciOi"),
    ],
)
def test_a_secret_never_gets_into_a_log(text: str, secret: str) -> None:
    shown = logs.document(_record("%s", text))["text"]
    assert secret not in shown and "…" in shown


def test_the_last_records_are_kept_by_number_and_no_more_than_that() -> None:
    recent = logs.Recent()
    for number in range(700):
        recent.handle(_record("step %d", number, level=logging.INFO, model="m" if number % 2 else "n"))
    kept = recent.after(0)
    assert len(kept) == 500 and kept[-1]["number"] == 700 and kept[-1]["text"] == "step 699"
    assert [record["model"] for record in recent.after(698)] == ["n", "m"]
    assert recent.after(700) == []


def test_journald_gets_fields_and_what_it_does_not_take_goes_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logs._Journald(tmp_path / "socket")
    handler.handle(_record("lost"))
    assert capsys.readouterr().err == "WARNING lost\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        handler.handle(_record("one\nPRIORITY=0\nline", model=f"{NAME}\nPRIORITY=0"))
        fields, rest = {}, journal.recv(65536)
    while rest:  # as the protocol says: KEY=value, or KEY, a length and so many bytes
        key, rest = rest.split(b"\n", 1)
        if b"=" in key:
            key, value = key.split(b"=", 1)
        else:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        fields[key.decode()] = value.decode()
    assert fields["MESSAGE"] == "one PRIORITY=0 line" and fields["PRIORITY"] == "4"
    assert fields["MODELSYNC_MODEL"] == f"{NAME}\nPRIORITY=0" and fields["SYSLOG_IDENTIFIER"] == "modelsyncd"


@pytest.fixture
async def device(tmp_path: Path, worker_id: str) -> AsyncIterator[Cloud]:
    shop = await Shop.open(tmp_path)
    async with cloud(tmp_path, worker_id) as made:
        made.hub.add_device("pi")
        text = f'connection_string = "{made.hub.add_device("pi")}"'
        await made.start(shop.trust, text, 'log_format = "json"', "stall_seconds = 1")
        await made.until(lambda: "modelsync" in made.hub.reported("pi"), "a report")
        yield made


def _lines(data: Path, *options: str) -> list[str]:
    done = subprocess.run([COMMAND, "logs", "--data", str(data), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(300)  # seven starts of a command, each as long as a busy machine has it take
async def test_what_a_running_daemon_did_is_shown_followed_and_watched(device: Cloud) -> None:
    """Also what its own stderr does not show, and what a terminal sees meanwhile."""
    data = device.data.root
    following = await asyncio.create_subprocess_exec(
        *(COMMAND, "logs", "--data", str(data), "--model", NAME, "--follow", "--json"), stdout=asyncio.subprocess.PIPE
    )
    watching, terminal = _on_a_terminal("status", "--data", str(data), "--watch")
    device.wish(1, "http://127.0.0.1:9/store")
    await device.until(lambda: device.model().get("state") == "waiting", "the line that is not there")
    assert following.stdout is not None
    record = json.loads(await following.stdout.readline())
    assert record["model"] == NAME and record["text"] == f"{NAME}: idle -> resolving"
    following.send_signal(signal.SIGINT)
    assert await following.wait() == 0
    seen = await asyncio.to_thread(_read_until, terminal, f"{NAME} - waiting")
    assert "\x1b[H" in seen and "Ctrl-C ends this" in seen
    watching.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(watching.wait) == 0
    assert "\x1b[?25h" in await asyncio.to_thread(_read_until, terminal, "\x1b[?1049l"), "the cursor is back"
    os.close(terminal)
    waiting = [json.loads(line) for line in await asyncio.to_thread(_lines, data, "--json")]
    assert any(each["level"] == "warning" and "again in" in each["text"] for each in waiting)
    assert all(NAME in line for line in await asyncio.to_thread(_lines, data, "--model", NAME))
    for line in device.log.read_text().splitlines():
        assert json.loads(line)["level"] != "debug"


async def test_what_is_not_a_terminal_gets_lines_that_changed(device: Cloud) -> None:
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "status", "--data", str(device.data.root), "--watch", "--running"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert b"running" in await process.stdout.readline()
    device.wish(1, "http://127.0.0.1:9/store")
    assert NAME.encode() in await process.stdout.readline()
    await device.stop()
    await process.stdout.read()
    assert await process.wait() == 4, "with --running its end is told"


def test_without_a_daemon_it_is_said_where_records_are(tmp_path: Path) -> None:
    (tmp_path / "state.db").touch()
    done = subprocess.run(
        [COMMAND, "logs", "--data", str(tmp_path)], capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, "PATH": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 4 and "journald" in done.stderr
    done = subprocess.run(
        [COMMAND, "status", "--watch", "--json", "--data", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "--watch" in done.stderr


async def test_what_a_worker_logs_is_its_parents_and_is_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = Outcome("m", 1, "0" * 64, False, "held", 0, 0, 0, 0, 0)
    program = (
        "import json, sys\nsys.stdin.readline()\n"
        "for n in range(1000): print(json.dumps({'event': 'log', 'level': 90, 'text': f'{n} sig=abc'}))\n"
        f"print(json.dumps({{'event': 'result', 'outcome': {outcome!r}}}))\n"
    ).replace(repr(outcome), repr({**{s: getattr(outcome, s) for s in outcome.__slots__}, "withdrawn": []}))

    class Held:
        def fileno(self) -> int:
            return 0

    preparer = ChildPreparer(Held(), (sys.executable, "-c", program))  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO):
        await preparer.prepare(Job("m", 1, "http://x", str(tmp_path)), lambda event: None)
    ours = [record for record in caplog.records if record.name.endswith("worker_client")]
    assert len(ours) == 200 and {record.levelno for record in ours} == {logging.ERROR}
    assert logs.text_of(ours[0]) == "m: 0 sig=…"


def _on_a_terminal(*arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([COMMAND, *arguments], stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    return process, ours


def _read_until(terminal: int, wanted: str) -> str:
    seen = b""
    while wanted.encode() not in seen:
        try:
            part = os.read(terminal, 4096)
        except OSError:
            break  # the other side is closed
        seen += part
    assert wanted.encode() in seen, seen[-500:]
    return seen.decode()
