"""`modelsyncd logs`: the last records of the daemon that runs, or what journald kept of one that does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from modelsync_daemon.local import socket_client
from modelsync_protocol.errors import UnreachableError

_WAIT_SECONDS = 20
UNIT = "modelsyncd.service"


def run(data: Path, model: str | None, follow: bool, as_json: bool, print_line: Callable[[str], None]) -> None:
    """Print the records, and with `follow` those that come, until interrupted. Raises UnreachableError."""
    last = 0
    while True:
        query = urlencode({"after": last, **({"wait": _WAIT_SECONDS} if follow and last else {})})
        try:
            records = socket_client.call(data / "daemon.sock", "GET", f"/v1/logs?{query}")["records"]
        except socket_client.NoDaemon as error:
            if last:
                raise UnreachableError("the daemon has ended; what it said before is above.") from error
            _journal(model, follow, as_json, error)
            return
        for record in records:
            if model is None or record.get("model") == model:
                print_line(json.dumps(record) if as_json else line(record))
        sys.stdout.flush()
        if not follow:
            return
        last = records[-1]["number"] if records else max(last, 0)
        if not last:
            last = -1  # nothing yet: wait for the first


def line(record: dict[str, Any]) -> str:
    """A record for people."""
    return f"{record['time']} {record['level']} {record['text']}"


def _journal(model: str | None, follow: bool, as_json: bool, error: socket_client.NoDaemon) -> None:
    """What journald has of the unit; where there is no journald, the sentence that no daemon runs."""
    if shutil.which("journalctl") is None:
        raise UnreachableError(f"{error} Records are kept by the daemon that runs, and there is no journald here.")
    command = ["journalctl", "--no-pager", "--quiet", f"--unit={UNIT}", "--lines=200"]
    command += ["--follow"] if follow else []
    command += ["--output=json"] if as_json else ["--output=short-iso"]
    command += [f"MODELSYNC_MODEL={model}"] if model is not None else []
    sys.stdout.flush()
    if subprocess.run(command, check=False).returncode != 0:
        raise UnreachableError(f"{error} journald can't be read either; see journalctl --unit={UNIT}.")
