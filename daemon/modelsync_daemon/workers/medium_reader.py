"""Reads an offline medium's index in a forked child that has nothing else, for who then says what to bring."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import NoReturn

from modelsync_daemon.confinement import layers, message_pipe
from modelsync_daemon.confinement.message_pipe import MessagePipe
from modelsync_daemon.transfer.media_origin import MediaOrigin
from modelsync_daemon.workers.messages import error_of, kind_of
from modelsync_protocol import caps
from modelsync_protocol.errors import LocalError, ModelsyncError
from modelsync_protocol.media import Medium

_MAX_ANSWER_BYTES = 2 * caps.MAX_MEDIA_INDEX_BYTES


def read(path: Path) -> Medium:
    """The index of the export at `path`. UsageError, RefusedError, UnreachableError or LocalError, as of MediaOrigin.

    Call it before threads exist.
    """
    layers.plan()
    ours, theirs = message_pipe.pair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _serve(theirs, path)
    theirs.close()
    try:
        said = json.loads(ours.recv_bytes(_MAX_ANSWER_BYTES))
        if "error" in said:
            raise error_of(str(said["error"]), str(said["text"]))
        models = {str(name): tuple(versions) for name, versions in said["models"].items()}
        return Medium(str(said["store"]), str(said["issued"]), models)
    except (EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LocalError(f"reading the index on {path} failed; see whether memory ran out.") from error
    finally:
        ours.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _serve(pipe: MessagePipe, path: Path) -> NoReturn:
    """The child's life: one index, one answer."""
    with contextlib.suppress(BaseException):
        layers.forget_environment()
        layers.confine_reader(pipe.fileno(), path)
        pipe.send_bytes(json.dumps(_looked_at(path)).encode())
    os._exit(0)


def _looked_at(path: Path) -> dict[str, object]:
    try:
        origin = MediaOrigin(path)
    except ModelsyncError as error:
        return {"error": kind_of(error), "text": str(error)}
    found = origin.medium
    return {"store": found.store, "issued": found.issued, "models": found.models}
