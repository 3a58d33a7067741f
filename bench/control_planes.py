"""What an idle device costs on each control plane, on a line whose IP and TCP headers count: the SDK, our own client of
IoT Hub, a plain broker (Mosquitto, TLS, user and password). `python -m bench.control_planes`, as root.

As `modelsync-bench idle`: a day is put together from measured parts, one keep-alive exchange (its wait made short,
which changes no byte), one reading of the twin by the timer, one new connection, and how often a day each happens.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelsync_bench import idle_line
from modelsync_bench.idle_line import DAY, line
from modelsync_bench.processes import server
from modelsync_daemon.config import Settings

_PORT = 18883
_SHORT = 5
_PINGS = 6
_BRIEF_READINGS = 20
_PATIENCE = 60.0


def measure() -> dict[str, Any]:
    """By control plane: bytes of each part, both directions, and of a day."""
    return {name: _one(name) for name in ("sdk", "own", "mqtt")}


def _one(name: str) -> dict[str, Any]:
    settings = Settings(data=Path("x"))
    with line() as site, _broker(site, name == "mqtt"):
        base, keep = _settings(site, name)
        with site.daemon(f"{keep} = {_SHORT}\n", base):
            begin = site.still()
            time.sleep(_PINGS * _SHORT)
            ping = round(idle_line.both(site.lab.counts(), begin) / _PINGS)
        site.still()
        begin = site.lab.counts()
        with site.daemon("", base):
            connection = idle_line.both(site.lab.counts(), begin)
        with site.daemon(f"reconcile_seconds = {_BRIEF_READINGS}\n", base):
            reading = site.next_burst(site.still(), _PATIENCE)
    keep_alive = settings.control_keep_alive_seconds if name == "mqtt" else settings.keep_alive_seconds
    renewals = 0.0 if name == "mqtt" else DAY / settings.token_seconds
    readings = DAY / (0.9 * settings.reconcile_seconds)
    day = DAY / keep_alive * ping + renewals * connection + readings * reading
    return {
        "keep_alive_bytes": ping,
        "keep_alive_seconds": keep_alive,
        "reading_bytes": reading,
        "readings_a_day": round(readings, 1),
        "connection_bytes": connection,
        "renewals_a_day": renewals,
        "bytes_a_day": round(day),
        "bytes_a_day_with_one_broken_line": round(day + connection),
    }


def _settings(site: Any, name: str) -> tuple[str, str]:
    """The device's settings but for `data`, and the name of its keep-alive."""
    ca = f'ca = "{site.root / "hub" / "ca.pem"}"\n'
    if name != "mqtt":
        return f'{ca}connection_string = "{site.text}"\ncontrol_client = "{name}"\n', "keep_alive_seconds"
    (site.root / "password").write_text("secret\n")
    return (
        f'{ca}control_kind = "mqtt"\ncontrol_url = "mqtts://{site.lab.server_host}:{_PORT}"\ncontrol_user = "d"\n'
        f'control_password_file = "{site.root / "password"}"\n',
        "control_keep_alive_seconds",
    )


@contextmanager
def _broker(site: Any, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
    if program is None:
        raise SystemExit("mosquitto is not installed: apt-get install mosquitto")
    root, hub = site.root, site.root / "hub"
    (root / "passwords").write_text("d:secret\n")
    subprocess.run(["mosquitto_passwd", "-U", str(root / "passwords")], check=True, capture_output=True)
    (root / "mosquitto.conf").write_text(
        f"user root\nallow_anonymous false\npassword_file {root / 'passwords'}\n"
        f"listener {_PORT} {site.lab.server_host}\n"
        f"certfile {hub / 'server.pem'}\nkeyfile {hub / 'server-key.pem'}\n"
    )
    with server(site.lab, [program, "-c", str(root / "mosquitto.conf")], root / "mosquitto.log", port=_PORT):
        yield


if __name__ == "__main__":
    json.dump(measure(), sys.stdout, indent=2)
    sys.stdout.write("\n")
