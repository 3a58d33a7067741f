"""Does the trust store's work in a process of its own, whose memory is gone before the download begins.

python-tuf and its cryptography take 8 MiB; a decoder needs those more. Objects are fetched by the parent, which has
the connection: the child asks for them over a pipe, and has nothing else but the trust store's folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from modelsync_daemon.confinement import lifetime, message_pipe
from modelsync_daemon.confinement.layers import confine_checker, forget_environment
from modelsync_daemon.confinement.message_pipe import MessagePipe
from modelsync_daemon.trust import publishers_only
from modelsync_daemon.trust import trust_messages as messages
from modelsync_daemon.trust.resolved import Fetch, Resolved
from modelsync_daemon.trust.trust_messages import Question
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_protocol.errors import ModelsyncError, RefusedError


class TrustChild:
    """A forked child that serves one trust store once: `open`, then `seed` and `resolve` as of TrustStore."""

    def __init__(self, pipe: MessagePipe, pid: int) -> None:
        self._pipe = pipe
        self._pid = pid
        self._directory = Path()
        self._root: bytes | None = None

    @classmethod
    def start(cls) -> TrustChild:
        """Fork the child; call it before threads exist."""
        ours, theirs = message_pipe.pair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _serve(theirs)
        theirs.close()
        return cls(ours, pid)

    def open(self, directory: Path) -> TrustChild:
        """Serve the trust store in `directory`."""
        self._directory = directory
        return self

    def seed(self, root_json: bytes) -> None:
        """As TrustStore.seed, carried out with `resolve`."""
        self._root = root_json

    def resolve(self, model: str, version: int | None, fetch: Fetch, *, carried: bool = False) -> Resolved:
        """As TrustStore.resolve; the child has ended, and its memory is free, when this returns."""
        try:
            self._pipe.send_bytes(Question(self._directory, self._root, model, version, carried).encode())
            return self._converse(fetch)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise RefusedError("checking the signed metadata failed; see whether memory ran out.") from error
        except (OSError, ValueError, KeyError, TypeError) as error:  # OSError: longer than any message of ours
            raise RefusedError(f"who checks the signed metadata said something unknown ({error}).") from error
        finally:
            self._pipe.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)

    def _converse(self, fetch: Fetch) -> Resolved:
        failures: list[ModelsyncError] = []
        while True:
            said = messages.parse(self._pipe.recv_bytes(messages.MAX_MESSAGE_BYTES))
            if "resolved" in said:
                return messages.parse_answer(said["resolved"])
            if "error" in said:
                number = said["number"]
                raise messages.parse_trouble(said) if number is None else failures[number]
            try:
                self._pipe.send_bytes(messages.fetched(fetch(said["fetch"], said["limit"])))
            except ModelsyncError as error:
                failures.append(error)
                self._pipe.send_bytes(messages.trouble(error))


def _serve(pipe: MessagePipe) -> NoReturn:
    """The child's life: one question, some fetches, one answer.

    It imports before it is asked, beside its parent, which imports or connects: nothing from outside is read. It never
    returns into what it was forked from. Signals for a whole terminal or unit are its parent's; it ends with that.
    """
    try:
        lifetime.die_with_parent()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        forget_environment()
        publishers_only.leave_out()
        import_module("modelsync_daemon.trust.tuf_refresh")
        question = Question.parse(pipe.recv_bytes())
        confine_checker(pipe.fileno(), question.directory)
        _answer(pipe, question)
    finally:
        os._exit(0)


def _answer(pipe: MessagePipe, question: Question) -> None:
    failures: list[ModelsyncError] = []

    def fetch(path: str, limit: int) -> bytes:
        pipe.send_bytes(messages.wish(path, limit))
        said = messages.parse(pipe.recv_bytes())
        if "error" in said:
            failures.append(messages.parse_trouble(said))
            raise failures[-1]
        return messages.parse_fetched(said)

    try:
        store = TrustStore(question.directory)
        if question.root is not None:
            store.seed(question.root)
        found = store.resolve(question.model, question.version, fetch, carried=question.carried)
    except ModelsyncError as error:
        number = next((number for number, failure in enumerate(failures) if failure is error), None)
        pipe.send_bytes(messages.trouble(error, number))
    else:
        pipe.send_bytes(messages.answer(found))
