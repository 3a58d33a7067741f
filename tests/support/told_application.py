"""An application that loads the model that it is told of, and does not follow pointers: by HTTP, a signal or a restart.

A program: `python told_application.py FOLDER PORT`, FOLDER being models/NAME of a data directory. `rules.json` in that
says how versions behave ({"2": "bad"}): `bad` is refused, `hang` never comes back, `crash` loads and dies soon after,
`deaf` is answered with success and not loaded. It answers `GET /version`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Application:
    """What it serves, and how it comes to serve something else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.version, self.loads = folder, 0, 0

    def rule(self, version: int) -> str:
        """How that version behaves."""
        try:
            return str(json.loads((self.folder.parent.parent / "rules.json").read_text()).get(str(version), ""))
        except OSError:
            return ""

    def load(self) -> None:
        """Load what `current` names. Raises ValueError for a bad model."""
        if not (self.folder / "current").exists():
            return
        version = int((self.folder / "current" / "model.onnx").read_text())
        rule = self.rule(version)
        if rule == "bad":
            raise ValueError(f"model {version} has a layer that nobody knows")
        if rule == "hang":
            threading.Event().wait()
        if rule == "deaf":
            return
        self.version, self.loads = version, self.loads + 1
        if rule == "crash":
            threading.Timer(0.3, lambda: os._exit(9)).start()


class Handler(BaseHTTPRequestHandler):
    """`GET /version`, `POST /reload`."""

    application: Application
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(0.01)  # a request takes its time
        self._answer(200, {"version": self.application.version, "loads": self.application.loads, "pid": os.getpid()})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.application.load()
        except ValueError as error:
            self._answer(500, {"error": str(error)})
        else:
            self._answer(200, {"version": self.application.version})

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def main() -> None:
    """Serve until killed; the process id is written beside rules.json."""
    folder = Path(sys.argv[1])
    application = Application(folder)
    try:
        application.load()
    except ValueError:
        sys.exit(1)
    Handler.application = application

    def on_hangup(*_: object) -> None:
        threading.Thread(target=application.load, daemon=True).start()

    signal.signal(signal.SIGHUP, on_hangup)
    port = int(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    (folder.parent.parent / "app.pid").write_text(f"{os.getpid()}\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
