"""Does the trust store's work in a process of its own, whose memory is gone before the download begins.

python-tuf and its cryptography take 8 MiB; a decoder needs those more. Objects are fetched by the parent, which has
the connection: the child asks for them over a pipe.
"""

from __future__ import annotations

import contextlib
import os
import sys
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import NoReturn

from modelsync_daemon.trust.resolved import Fetch, Resolved
from modelsync_daemon.trust.trust_store import TrustStore
from modelsync_protocol.errors import ModelsyncError, RefusedError

_FOR_PUBLISHERS = ("azure.identity", "azure.keyvault", "boto3", "google.cloud", "hvac", "PyKCS11", "asn1crypto")
"""What securesystemslib imports, if it is installed, for signers in clouds and tokens: no device needs its 8 MiB."""


class TrustChild:
    """A forked child that serves one trust store once: `open`, then `seed` and `resolve` as of TrustStore."""

    def __init__(self, pipe: Connection, pid: int) -> None:
        self._pipe = pipe
        self._pid = pid
        self._directory = Path()
        self._root: bytes | None = None

    @classmethod
    def start(cls) -> TrustChild:
        """Fork the child; call it before threads exist."""
        ours, theirs = Pipe()
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

    def resolve(self, model: str, version: int | None, fetch: Fetch, *, bundle_only: bool = False) -> Resolved:
        """As TrustStore.resolve; the child has ended, and its memory is free, when this returns."""
        try:
            self._pipe.send((self._directory, self._root, model, version, bundle_only))
            while True:
                kind, content = self._pipe.recv()
                if kind == "fetch":
                    self._pipe.send(_attempt(fetch, *content))
                elif kind == "error":
                    raise content
                else:
                    assert isinstance(content, Resolved)
                    return content
        except (EOFError, BrokenPipeError) as error:
            raise RefusedError("checking the signed metadata failed; see whether memory ran out.") from error
        finally:
            self._pipe.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)


def _attempt(fetch: Fetch, path: str, limit: int) -> bytes | ModelsyncError:
    try:
        return fetch(path, limit)
    except ModelsyncError as error:
        return error


def _serve(pipe: Connection) -> NoReturn:
    """The child's life: one request, some fetches, one answer."""

    def fetch(path: str, limit: int) -> bytes:
        pipe.send(("fetch", (path, limit)))
        answer = pipe.recv()
        if isinstance(answer, ModelsyncError):
            raise answer
        assert isinstance(answer, bytes)
        return answer

    for name in _FOR_PUBLISHERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: importing it raises ImportError
    with contextlib.suppress(EOFError, BrokenPipeError):
        directory, root, model, version, bundle_only = pipe.recv()
        try:
            store = TrustStore(directory)
            if root is not None:
                store.seed(root)
            pipe.send(("resolved", store.resolve(model, version, fetch, bundle_only=bundle_only)))
        except ModelsyncError as error:
            pipe.send(("error", error))
    os._exit(0)
