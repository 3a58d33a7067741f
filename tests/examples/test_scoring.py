"""The scoring example from publisher to device: published, pulled, served, swapped under requests, rolled back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from examples.scoring import build
from tests.support.infer_process import InferProcess
from tests.support.waiting import wait_until

HERE = Path(build.HERE)
PROBES = [json.loads((HERE / f"v{version}.probe.json").read_text())["cases"][0] for version in (1, 2)]
BODY = PROBES[0]["inputs"]["raw_data"]["data"][0].encode()
EXPECTED = [json.loads(probe["outputs"]["result"]["data"][0])["probability"] for probe in PROBES]


def test_what_is_committed_is_what_the_build_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_MODEL_DIR", "")
    for version in (1, 2):
        build.write(version, tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 6
    for path in written:
        if path.suffix != ".json":
            assert (tmp_path / path).read_bytes() == (HERE / path).read_bytes(), path


def command(name: str, *arguments: object) -> Any:
    """Run one of our commands to its end; its JSON, if it prints any."""
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=240)
    return json.loads(done.stdout) if done.stdout.startswith("{") else None


@pytest.mark.long
def test_it_is_swapped_and_rolled_back_under_requests_without_a_failed_or_wrong_answer(tmp_path: Path) -> None:
    store, keys, data = tmp_path / "store", tmp_path / "keys", tmp_path / "data"
    trust = command("modelsync", "init", store, "--keys", keys, "--json")["trust"]

    def publish(version: int) -> None:
        folder, probe = HERE / f"v{version}", HERE / f"v{version}.probe.json"
        command("modelsync", "publish", store, "scoring", folder, "--probe", probe, "--keys", keys, "--json")

    publish(1)
    serve = [str(Path(sys.executable).with_name("modelsync")), "serve", str(store), "--port", "0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as origin:
        assert origin.stdout is not None
        url = json.loads(origin.stdout.readline())["url"]

        def pull() -> None:
            command("modelsyncd", "pull", "scoring", "--origin", url, "--data", data, "--trust", trust, "--json")

        pull()
        with InferProcess(data, "--allow-code", "scoring", model="scoring") as server:
            versions: list[int] = []
            problems: list[str] = []
            over = threading.Event()

            def ask() -> None:
                while not over.is_set():
                    try:
                        request = urllib.request.Request(f"{server.url}/score", data=BODY)
                        with urllib.request.urlopen(request) as response:
                            version = int(response.headers["modelsync-model-version"])
                            probability = json.load(response)["probability"]
                    except OSError as error:
                        problems.append(str(error))
                        continue
                    if probability != pytest.approx(EXPECTED[version - 1], abs=1e-6):
                        problems.append(f"version {version} answered {probability}")
                    if versions[-1:] != [version]:
                        versions.append(version)

            wait_until(lambda: ready(server.url), "readiness", 60)
            asking = threading.Thread(target=ask)
            asking.start()
            try:
                publish(2)
                pull()
                wait_until(lambda: versions == [1, 2], "version 2", 60)
                command("modelsyncd", "rollback", "scoring", "--data", data)
                wait_until(lambda: versions == [1, 2, 1], "version 1 again", 60)
            finally:
                over.set()
                asking.join()
            assert problems == []
        origin.terminate()


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready") as response:
            return bool(response.status == 200)
    except OSError:
        return False
