"""A detector that reads its model once, when it starts: as Frigate and many cameras' programs do.

python detector.py /var/lib/modelsync/models/detector/current/model.json PORT PIDFILE
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Answers(BaseHTTPRequestHandler):
    """`GET /` answers with the model's version."""

    protocol_version = "HTTP/1.1"
    model: dict[str, Any]

    def do_GET(self) -> None:
        body = json.dumps({"version": self.model["version"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def main() -> None:
    """Serve until SIGTERM; end with 1 if the model does not load."""
    path, port, pidfile = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    model = json.loads(path.read_text()) if path.exists() else {"version": 0}
    if type(model.get("version")) is not int:
        sys.exit(f"{path} has no version")
    if model.get("hangs"):
        signal.pause()
    if "crashes_after" in model:
        signal.setitimer(signal.ITIMER_REAL, model["crashes_after"])  # SIGALRM ends it
    Answers.model = model
    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    server.daemon_threads = True
    pidfile.write_text(f"{os.getpid()}\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
