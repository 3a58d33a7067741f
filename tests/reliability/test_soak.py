"""Updates in a row with faults: no inference fails, no answer is older than the one before, and nothing grows."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.soak import Client, Sample, Soak, soaking, tenths
from tests.support.addresses import loopback_address
from tests.support.figures import record
from tests.support.waiting import wait_until

_SLACK = {
    "daemon memory": 2048,
    "daemon descriptors": 3,
    "daemon threads": 2,
    "server memory": 16384,
    "server descriptors": 12,
    "server threads": 8,
    "disk": 64,
    "database": 64,
}
"""How much more the last tenth may hold than the first: less than a hundredth of it an update would be a leak.

Memory, disk and database in KiB. Descriptors and threads of the server come and go with the version before, which is
put away while the next sample is taken.
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which a test may fill up; without root just a folder."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_few_updates_with_faults_lose_no_inference(tmp_path: Path, small_disk: Path, worker_id: str) -> None:
    async with soaking(tmp_path, small_disk, loopback_address(worker_id), seed=7) as soak:
        await soak.run(updates=12, seconds=15)
        _check(soak)
        record("soak", "short (make test)", **_row(soak))


@pytest.mark.long
@pytest.mark.timeout(2400)
async def test_a_thousand_updates_with_faults_lose_no_inference_and_nothing_grows(
    tmp_path: Path, small_disk: Path, worker_id: str
) -> None:
    async with soaking(tmp_path, small_disk, loopback_address(worker_id), seed=11) as soak:
        await soak.run(updates=1000, seconds=float(os.environ.get("MODELSYNC_SOAK_SECONDS", "1740")))
        _check(soak)
        held = tenths(soak.samples)
        flat = {name: f"{round(first):,} → {round(last):,}" for name, (first, last) in held.items()}
        record("soak", "long (make test-long)", **_row(soak))
        record("soak-held", "first tenth → last tenth", **flat)
        for name, (first, last) in held.items():
            assert last <= first + _SLACK[name], f"{name} grew from {first} to {last}"


def test_what_grows_shows() -> None:
    early = [Sample(0, {"disk": 1000.0, "database": 10.0})] * 50
    samples = [Sample(1, {"disk": float(number), "database": 10.0}) for number in range(100)]
    assert tenths(early + samples) == {"disk": (23.5, 95.5), "database": (10.0, 10.0)}


@pytest.mark.parametrize(
    ("status", "version", "tag", "says"),
    [(503, 5, 5, "503"), (200, 4, 4, "answers after 5"), (200, 6, 5, "is by"), (200, 7, 7, "never published")],
)
def test_the_client_takes_no_wrong_answer(status: int, version: int, tag: int, says: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            outputs = [{"name": "tag", "data": [tag]}, {"name": "y", "data": [tag, 2.0 * tag, 3.0 * tag]}]
            body = json.dumps({"model_version": str(version), "outputs": outputs}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        client = Client(f"127.0.0.1:{server.server_port}", newest=5, published=6)
        client.start()
        wait_until(lambda: client.failed, "a complaint")
        client.stop()
        server.shutdown()
        serving.join()
    assert says in client.failed[0] and client.answers == 0


def _check(soak: Soak) -> None:
    assert soak.client is not None
    assert not soak.client.failed, soak.client.failed[:10]
    assert soak.client.newest == soak.version, "the newest version does not answer"


def _row(soak: Soak) -> dict[str, int]:
    assert soak.client is not None
    row = {"updates": len(soak.samples), "inferences": soak.client.answers, "failed": len(soak.client.failed)}
    return row | {name: soak.faults[name] for name in sorted(soak.faults)}
