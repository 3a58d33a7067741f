"""A real Mosquitto (Debian's) on a loopback port, with what a test wants of it: TLS, users, an access list, limits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelsync_daemon.control import broker
from modelsync_server.broker import session
from modelsync_server.hub.certificates import Certificates, ensure
from tests.support.addresses import free_port
from tests.support.waiting import PATIENCE_SECONDS, listens

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"


@dataclass
class Mosquitto:
    """One broker. `start` and `stop` may be repeated; without `persistence` it forgets everything meanwhile."""

    folder: Path
    port: int
    tls: Certificates | None = None
    web_port: int | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """As the daemon's control_url."""
        return f"{'mqtt' if self.tls is None else 'mqtts'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it listens."""
        program = shutil.which("mosquitto", path=_PATH)
        assert program is not None
        log = (self.folder / "mosquitto.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [program, "-c", str(self.folder / "mosquitto.conf"), "-v"], stdout=log, stderr=log, cwd=self.folder
            )
        ports = [self.port] if self.web_port is None else [self.port, self.web_port]
        for port in ports:
            listens(port, self.process, self.log)

    def stop(self) -> None:
        """End; every connection is lost."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)
            self.process = None

    def freeze(self) -> None:
        """It stays connected, and says nothing any more."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")[-3000:]


@contextmanager
def mosquitto(
    folder: Path,
    *,
    tls: bool = False,
    client_certificates: bool = False,
    users: Mapping[str, str] | None = None,
    access: str | None = None,
    web: bool = False,
    persistence: bool = False,
    more: str = "",
) -> Iterator[Mosquitto]:
    """A running broker whose files go to `folder`; skips loudly where there is no Mosquitto.

    `client_certificates`: devices are known by their certificate's common name; `access`: an acl_file's text;
    `web`: WebSockets on a port of their own; `more`: further lines of the configuration.
    """
    if shutil.which("mosquitto", path=_PATH) is None:
        text = "LOUD: mosquitto is not installed, so this promise is not tested here"
        pytest.fail(text) if os.environ.get("CI") else pytest.skip(text)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    made = Mosquitto(folder, port, ensure(folder / "tls", "127.0.0.1") if tls else None)
    lines = ["per_listener_settings false", "user root", f"allow_anonymous {'false' if users else 'true'}", more]
    if persistence:
        lines += ["persistence true", f"persistence_location {folder}/"]
    if users:
        passwords = folder / "passwords"
        passwords.write_text("".join(f"{user}:{secret}\n" for user, secret in users.items()))
        subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, capture_output=True)
        lines.append(f"password_file {passwords}")
    if access is not None:
        (folder / "acl").write_text(access)
        lines.append(f"acl_file {folder / 'acl'}")
    lines.append(f"listener {port} 127.0.0.1")
    if made.tls is not None:
        lines += [f"certfile {made.tls.server}", f"keyfile {made.tls.server_key}"]
        if client_certificates:
            lines += [f"cafile {made.tls.ca}", "require_certificate true", "use_identity_as_username true"]
    if web:
        made.web_port = free_port()
        lines += [f"listener {made.web_port} 127.0.0.1", "protocol websockets"]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    made.start()
    with pytest.MonkeyPatch.context() as patch:
        for place in (broker, session):  # it sends what it retains before it answers anything else
            patch.setattr(place, "_SETTLE_SECONDS", 0.05)
        try:
            yield made
        finally:
            made.stop()
