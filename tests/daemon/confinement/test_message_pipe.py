"""Messages between a process and the confined child whose word is not to be taken for granted."""

from __future__ import annotations

import os
import random
import threading
import tracemalloc

import pytest

from modelsync_daemon.confinement import message_pipe

BYTES = 100_000


def test_a_message_in_crumbs_takes_no_more_memory_than_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = message_pipe.pair()
    message = random.randbytes(BYTES)
    sender = threading.Thread(target=theirs.send_bytes, args=(message,))
    really = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, count: really(descriptor, min(count, 2)))
    sender.start()
    tracemalloc.start()
    try:
        assert ours.recv_bytes(BYTES) == message
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        sender.join()
        ours.close()
        theirs.close()
    assert most < 4 * BYTES


def test_what_is_too_long_or_ends_early_is_an_error() -> None:
    ours, theirs = message_pipe.pair()
    theirs.send_bytes(b"x" * 11)
    with pytest.raises(OSError, match="11 bytes where 10 are the most"):
        ours.recv_bytes(10)
    ours.close()
    ours, theirs = message_pipe.pair()
    os.write(theirs.fileno(), (1 << 62).to_bytes(8, "big") + b"x")
    theirs.close()
    with pytest.raises(EOFError):
        ours.recv_bytes()
    ours.close()
