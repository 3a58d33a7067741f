"""Asks a running daemon over its Unix socket, with the standard library only. It knows no directory but its own."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelsync_protocol.errors import LocalError, RefusedError, UnreachableError, UsageError

_SECONDS = 30.0


class NoDaemon(UnreachableError):
    """No daemon listens on the socket."""


def call(path: Path, method: str, target: str, document: Mapping[str, Any] | None = None) -> Any:
    """The JSON answer of the daemon at socket `path`; raises NoDaemon, or what the daemon's status code means."""
    connection = _Connection(path)
    try:
        body = None if document is None else json.dumps(document)
        connection.request(method, target, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoDaemon(f"no modelsyncd listens on {path}.") from error
    except PermissionError as error:
        raise LocalError(f"{path} is not for this user; use the daemon's user or group.") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"modelsyncd on {path} does not answer ({error}); see its log.") from error
    finally:
        connection.close()
    parsed = json.loads(answer) if answer else {}
    if response.status < 400:
        return parsed
    text = str(parsed.get("error", f"modelsyncd answered {response.status}."))
    raise {400: UsageError, 409: RefusedError}.get(response.status, LocalError)(text)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("modelsyncd", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # through the descriptor, since a socket's path is limited to 107 bytes
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)
