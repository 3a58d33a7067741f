"""`line-score`: answers requests by a model, in the environment that it is started from.

With `--data` the model is a version of its own, which the daemon swaps under the running service: it is told what is
installed here, so that it takes no version that this environment can't run. Without, the model lies in the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from . import model
from .link import Link

_PLACE = Path(sys.prefix)


class Serving:
    """What answers now: one exchange of a reference, so that a request sees one model. `number`: its version."""

    def __init__(self) -> None:
        self._now: tuple[int, dict[str, Any]] = (0, {})

    def take(self, number: int, folder: Path) -> None:
        """Serve the model in `folder` from now on; raises whatever loading raises, and then nothing changes."""
        self._now = (number, model.load(folder))

    def answer(self, rows: model.Rows) -> dict[str, Any]:
        """Answers, with the versions that they came from."""
        number, loaded = self._now
        return {"answers": model.predict(loaded, rows) if loaded else [], "model": number, "environment": version()}


def version() -> int:
    """The environment's version on this device, by the name of its folder: VERSION-DIGEST."""
    number = _PLACE.name.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pidfile", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="the daemon's data directory")
    parser.add_argument("--model", default="model")
    arguments = parser.parse_args()
    serving = Serving()
    if arguments.data is None:
        serving.take(version(), _PLACE / "model")
    else:
        link = Link(arguments.data, arguments.model, serving.take, model.packages)
        link.follow()
        threading.Thread(target=link.run, daemon=True).start()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._say({**serving.answer([]), "pid": os.getpid(), "packages": model.packages()})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            try:
                rows = json.loads(self.rfile.read(length))
                self._say(serving.answer(rows))
            except (ValueError, TypeError, IndexError, KeyError) as error:
                self._say({"error": f"send a list of rows of {model.SENSORS} numbers: {error}"}, 400)

        def _say(self, document: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
    server.daemon_threads = True
    arguments.pidfile.write_text(f"{os.getpid()}\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
