"""What a device meets outside: a hub, a publisher and an origin, on loopback addresses of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "anomaly"
DEVICE, MODULE = "pi", "modelsync"
_HOST = "127.0.0.5"


class Site:
    """A hub with an IoT Edge workload API, a store and its origin, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, self._keys = folder / "store", folder / "keys"
        self.edge = folder / "edge"
        self.edge.mkdir()
        self._processes: list[subprocess.Popen[str]] = []
        workload = f"{DEVICE}/{MODULE}={self.edge / 'workload.sock'}"
        hub = self._start("hub", "--state", str(folder / "hub"), "--host", _HOST, "--workload", workload)
        self._service = hub["service"]
        made = self.call("init", str(self.store), "--keys", str(self._keys), "--json")
        self.trust = Path(json.loads(made)["trust"])
        (self.edge / "workload.sock").chmod(0o666)  # as IoT Edge's own: any module's user may ask for its identity
        self.origin = self._start("serve", str(self.store), "--port", "0")["url"]

    @property
    def environment(self) -> dict[str, str]:
        """What IoT Edge would set."""
        lines = (self.edge / "workload.sock.env").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines if "=" in line)

    def publish(self, name: str, path: Path, probe: Path | None = None) -> dict[str, Any]:
        """Publish a version; what the publisher says of it."""
        options = ["--probe", str(probe)] if probe else []
        said = self.call("publish", str(self.store), name, str(path), "--keys", str(self._keys), *options, "--json")
        document: dict[str, Any] = json.loads(said)
        return document

    def wish(self, **versions: int) -> None:
        """Set the module's twin."""
        models = {name: {"version": version} for name, version in versions.items()}
        section = json.dumps({"modelsync": {"origin": self.origin, "models": models}})
        self.call("twin", "set", DEVICE, section, "--module", MODULE, "--service", self._service)

    def reported(self, name: str) -> dict[str, Any]:
        """What the module reported of a model."""
        twin = json.loads(self.call("twin", "get", DEVICE, "--module", MODULE, "--service", self._service))
        section = twin["properties"]["reported"] if "properties" in twin else twin["reported"]
        model: dict[str, Any] = section.get("modelsync", {}).get("models", {}).get(name, {})
        return model

    def close(self) -> None:
        """End hub and origin."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(PATIENCE_SECONDS)

    def call(self, *arguments: str) -> str:
        """Run `modelsync` to its end; its output."""
        done = subprocess.run([_command(), *arguments], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"modelsync {' '.join(arguments[:3])}: {done.stderr.strip()}"
        return done.stdout

    def _start(self, *arguments: str) -> dict[str, Any]:
        with (self.folder / f"{arguments[0]}.log").open("w") as log:
            process = subprocess.Popen([_command(), *arguments], stdout=subprocess.PIPE, stderr=log, text=True)
        self._processes.append(process)
        assert process.stdout is not None
        document: dict[str, Any] = json.loads(process.stdout.readline())
        return document


def _command() -> str:
    return str(Path(sys.executable).with_name("modelsync"))
