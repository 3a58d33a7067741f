"""An upload that nobody vouches for is read by a process that has nothing to give away, and whose end loses nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from modelsync_protocol.errors import UsageError
from modelsync_server.examination import examination, landlock, syscall_filter
from tests.support.shop import Shop

REFUSED = {"EPERM", "EACCES", "ENOSYS", "ESRCH", "EROFS", "KeyError"}
SECRET = "DefaultEndpointsProtocol=https;AccountKey=c2VjcmV0"


@pytest.fixture(autouse=True)
def _with_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", SECRET)
    if not landlock.version() or syscall_filter.library() is None:
        reason = "CONFINEMENT IS NOT TESTED: this machine lacks Landlock or libseccomp"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def taken_over(monkeypatch: pytest.MonkeyPatch, confined: str = "on") -> None:
    command = [sys.executable, "-m", "tests.support.hostile_examiner", confined]
    monkeypatch.setattr(examination, "COMMAND", command)


def attempt(folder: Path, wanted: Any) -> tuple[str, ...]:
    stream = folder / "stream"
    stream.write_text(json.dumps(wanted))
    return examination.examine(stream, [("m.bin", 0, stream.stat().st_size)], {}).code


def attempts(folder: Path) -> list[list[Any]]:
    keys = folder / "keys.json"
    keys.write_text(SECRET)
    return [
        ["read", str(keys)],
        ["read", "/etc/passwd"],
        ["read", f"/proc/{os.getpid()}/environ"],
        ["make", str(folder / "new")],
        ["remove", str(keys)],
        ["socket", "AF_INET"],
        ["socket", "AF_UNIX"],
        ["fork"],
        ["program"],
        ["kill", os.getppid()],
        ["ptrace", os.getpid()],
        ["hidden_memory"],
    ]


def test_a_reader_that_is_taken_over_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_over(monkeypatch)
    answers = attempt(tmp_path, [*attempts(tmp_path), ["variable", "AZURE_STORAGE_CONNECTION_STRING"]])
    assert set(answers) <= REFUSED, answers
    assert (tmp_path / "keys.json").read_text() == SECRET


def test_without_confinement_the_attempts_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, the test above could pass for the wrong reason."""
    taken_over(monkeypatch, "off")
    wanted = [one for one in attempts(tmp_path) if one[0] not in ("kill", "ptrace")]
    answers = attempt(tmp_path, wanted)
    assert all(answer.startswith("done") for answer in answers), answers


@pytest.mark.parametrize(
    ("statement", "words", "seconds"),
    [
        ("os.abort()", "a reader fails on it", 60),
        ("ctypes.string_at(0)", "a reader fails on it", 60),
        ("bytearray(1 << 31)", "needs too much memory", 60),
        ("sys.stdout.write('{}'); sys.stdout.flush(); os._exit(0)", "a reader fails on it", 60),
        ("sys.stdout.write('x' * (5 << 20)); sys.stdout.flush(); os._exit(0)", "a reader fails on it", 60),
        ("while True: pass", "processor time", 1),
        ("time.sleep(60)", "takes more than 2 s", 1),
    ],
)
async def test_an_upload_on_which_a_reader_breaks_is_one_refusal_and_the_publisher_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, words: str, seconds: int
) -> None:
    shop = await Shop.open(tmp_path)
    taken_over(monkeypatch)
    monkeypatch.setattr(examination, "_SECONDS", seconds)
    if words == "processor time":  # of which a loaded machine may give it a second in much more than two
        answer = examination._answer
        monkeypatch.setattr(examination, "_answer", lambda child, order, _: answer(child, order, 50))
    path = tmp_path / "m.bin"
    path.write_text(json.dumps(statement))
    with pytest.raises(UsageError, match=words):
        await shop.publish("m", path, untrusted=True)
    monkeypatch.undo()
    assert (await shop.publish("m", path, untrusted=True)).version == 1


async def test_what_it_would_execute_is_said_with_the_release(tmp_path: Path) -> None:
    shop = await Shop.open(tmp_path)
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00idtR.")
    for untrusted in (True, False):
        release = await shop.publish("m", path, untrusted=untrusted)
        assert any("os.system" in sentence for sentence in release.code)
