"""A real `mlflow server` on this machine (SQLite, artifacts through the server), and filling it by its REST interface.

MLflow is 80 packages: it is installed once per machine, outside the checkout, by hash.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.addresses import free_port
from tests.support.venvs import installed

REQUIREMENTS = Path(__file__).resolve().parents[1] / "server" / "sources" / "mlflow.txt"
_SETTINGS = {
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",  # without these it sends webhooks to public HTTPS addresses only
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_CACHE_TTL": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MlflowServer:
    """A running server at `url`; `folder` holds its database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def ask(self, what: str, body: Any = None, method: str | None = None) -> dict[str, Any]:
        """One call of the REST interface below /api/2.0/."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        headers = {} if isinstance(body, bytes) else {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/2.0/{what}", data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return dict(json.loads(answer.read() or b"{}"))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{what}: {error.code} {error.read()!r:.500}") from error

    def run(self, files: dict[str, bytes], folder: str = "model") -> tuple[str, str]:
        """A run with these artifacts below `folder`: its id, and their address."""
        made = self.ask("mlflow/runs/create", {"experiment_id": "0", "start_time": 1})["run"]["info"]
        root = str(made["artifact_uri"]).removeprefix("mlflow-artifacts:/")
        for name, data in files.items():
            self.ask(f"mlflow-artifacts/artifacts/{urllib.parse.quote(f'{root}/{folder}/{name}')}", data, "PUT")
        return str(made["run_id"]), f"{made['artifact_uri']}/{folder}"

    def version(self, name: str, run: str, source: str) -> str:
        """Register a version of a model, which is made if it is not there."""
        try:
            self.ask("mlflow/registered-models/create", {"name": name})
        except AssertionError as error:
            assert "ALREADY_EXISTS" in str(error)
        made = self.ask("mlflow/model-versions/create", {"name": name, "source": source, "run_id": run})
        return str(made["model_version"]["version"])

    def alias(self, name: str, alias: str, version: str) -> None:
        """Let an alias name a version."""
        self.ask("mlflow/registered-models/alias", {"name": name, "alias": alias, "version": version}, "POST")


def program() -> Path:
    """The command `mlflow`."""
    return installed("mlflow", REQUIREMENTS) / "bin" / "mlflow"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """Run a server."""
    port = free_port()
    command: list[str | Path] = [program(), "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    environment = {**os.environ, **_SETTINGS, "PATH": f"{Path(program()).parent}:{os.environ['PATH']}"}
    with (folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "mlflow.log").read_text()
                time.sleep(0.5)
        yield MlflowServer(f"http://127.0.0.1:{port}", folder)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked politely, it may take half a minute
        process.wait(30)
