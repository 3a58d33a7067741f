"""What an idle hub connection costs a day: the SDK's defaults and modelsyncd's, each measured on a line of its own.

A day is put together from measured parts: one keep-alive exchange, one renewal of the token, and how often a day each
happens. The waits of a real day are not waited for: the SDK's token is made to last little longer than the two minutes
before its end at which the SDK renews it, and the daemon's keep-alive is set short, which changes no byte of either.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_bench import namespaces
from modelsync_bench.lab import quiet
from modelsync_bench.links import DIRECT, LINKS
from modelsync_bench.peers.modelsync import program
from modelsync_bench.processes import StepFailed, server
from modelsync_daemon.config import Settings

SCHEMA = 1
DAY = 86400
SDK_KEEP_ALIVE, SDK_TOKEN = 60, 3600
"""The SDK's defaults, seconds: the options below leave them alone, and the measured gap of its pings must agree."""

SDK_MARGIN = 120
"""Seconds before its end at which the SDK renews a token (azure-iot-device 2.14, its constant)."""

_SHORT_TOKEN = SDK_MARGIN + 20
_SHORT_KEEP_ALIVE = 5
_SERVICE_PORT = 9443
_SETTLE = 3.0
_CLIENT = """
import asyncio, json, sys
from azure.iot.device.aio import IoTHubDeviceClient
async def main():
    text, ca, options = sys.argv[1], open(sys.argv[2]).read(), json.loads(sys.argv[3])
    client = IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=ca, **options)
    await client.connect()
    await client.get_twin()
    client.on_twin_desired_properties_patch_received = lambda patch: None
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await client.shutdown()
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class IdleLine:
    """An idle connection: bytes of one exchange and one renewal, both directions, and the seconds between them."""

    name: str
    keep_alive_bytes: int
    keep_alive_seconds: int
    renewal_bytes: int
    renewal_seconds: int
    counter: str
    about: str

    @property
    def day_bytes(self) -> float:
        """Bytes a day. A renewal's own traffic saves at most one exchange, which is not taken off."""
        return DAY / self.keep_alive_seconds * self.keep_alive_bytes + DAY / self.renewal_seconds * self.renewal_bytes


def measure() -> dict[str, Any]:
    """Both connections, as the result's `facts` keep them. LabError without namespaces, StepFailed if one fails."""
    with ThreadPoolExecutor(3) as pool:
        ping, renewal, daemon = pool.submit(_sdk_ping), pool.submit(_sdk_renewal), pool.submit(_daemon)
        settings = Settings(data=Path("x"))
        (ping_bytes, gap), daemon_parts = ping.result(), daemon.result()
        if abs(gap - SDK_KEEP_ALIVE) > 5:
            raise StepFailed(f"the SDK's keep-alive came after {gap:.0f} s, not after its default {SDK_KEEP_ALIVE}.")
        lines = (
            IdleLine(
                "sdk-defaults",
                ping_bytes,
                SDK_KEEP_ALIVE,
                renewal.result(),
                SDK_TOKEN - SDK_MARGIN,
                "interface",
                "azure-iot-device with its defaults; a token of an hour is renewed two minutes before its end",
            ),
            IdleLine(
                "modelsyncd",
                daemon_parts[0],
                settings.keep_alive_seconds,
                daemon_parts[1],
                settings.token_seconds,
                "interface",
                "modelsyncd with its defaults; a renewal is measured as a restart: TLS, MQTT, twin and report",
            ),
        )
    return document(lines)


def document(lines: tuple[IdleLine, ...]) -> dict[str, Any]:
    """As the result keeps it."""
    return {"schema": SCHEMA, "lines": [{name: getattr(one, name) for name in one.__slots__} for one in lines]}


def read(found: Any) -> dict[str, IdleLine]:
    """Name → line of a result's `facts["idle"]`; empty if it has none of this schema."""
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        return {}
    return {one["name"]: IdleLine(**one) for one in found["lines"]}


def _sdk_ping() -> tuple[int, float]:
    """Bytes of an exchange, and the seconds between two."""
    with line() as site, site.sdk({}):
        times: list[float] = []
        total = 0
        before = site.still()
        while len(times) < 2:
            total += site.next_burst(before, SDK_KEEP_ALIVE + 15)
            times.append(time.monotonic())
            before = site.still()
        return round(total / len(times)), times[1] - times[0]


def _sdk_renewal() -> int:
    with line() as site, site.sdk({"sastoken_ttl": _SHORT_TOKEN}):
        return site.next_burst(site.still(), 45, lasting=4.0)


def _daemon() -> tuple[int, int]:
    """Bytes of an exchange and of a new connection."""
    with line() as site:
        with site.daemon(f"keep_alive_seconds = {_SHORT_KEEP_ALIVE}\n"):
            site.still()
            before = site.lab.counts()
            time.sleep(6 * _SHORT_KEEP_ALIVE)
            after = site.lab.counts()
        site.still()
        begin = site.lab.counts()
        with site.daemon(""):
            again = site.lab.counts()
        return round(both(after, before) / 6), both(again, begin)


@contextmanager
def line() -> Iterator[_Site]:
    """A namespace lab with a hub on its server side."""
    from modelsync_bench.certificates import make

    with tempfile.TemporaryDirectory(prefix="modelsync-idle-") as folder:
        root = Path(folder)
        with namespaces.NamespaceLab(root, make(root / "certificates").ca) as lab:
            lab.use(LINKS[DIRECT])
            command = [program("modelsync"), "hub", "--state", str(root / "hub"), "--host", lab.server_host]
            log = root / "hub.log"
            with server(lab, [*command, "--service-port", str(_SERVICE_PORT)], log, port=_SERVICE_PORT):
                yield _Site(lab, root)


class _Site:
    """One line with its hub, and what runs on the device."""

    def __init__(self, lab: namespaces.NamespaceLab, root: Path) -> None:
        self.lab, self.root = lab, root
        command = [program("modelsync"), "hub", "device", "add", "d", "--state", str(root / "hub")]
        self.text = subprocess.run(lab.on_server(command), capture_output=True, text=True, check=True).stdout.strip()

    def still(self) -> Any:
        """Wait until nothing was carried for a moment, and return the counts."""
        return quiet(self.lab, 1.0)

    def next_burst(self, before: Any, patience: float, lasting: float = 1.0) -> int:
        """Wait for the next traffic; its bytes, up to a pause of `lasting` seconds. StepFailed if none comes."""
        deadline = time.monotonic() + patience
        while self.lab.counts() == before:
            if time.monotonic() > deadline:
                raise StepFailed(f"the idle connection carried nothing within {patience:.0f} s.")
            time.sleep(0.25)
        return both(quiet(self.lab, lasting), before)

    @contextmanager
    def sdk(self, options: dict[str, Any]) -> Iterator[None]:
        """The unmodified SDK, connected, its twin read once."""
        ca = self.root / "hub" / "ca.pem"
        argv = self.lab.on_device([sys.executable, "-c", _CLIENT, self.text, str(ca), json.dumps(options)])
        with (self.root / "sdk.log").open("wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        with process:
            assert process.stdout is not None and process.stdin is not None
            try:
                if process.stdout.readline() != b"ready\n":
                    raise StepFailed(f"the SDK did not connect: {(self.root / 'sdk.log').read_text()[-400:]}")
                yield
            finally:
                process.kill()

    @contextmanager
    def daemon(self, more: str, base: str | None = None) -> Iterator[None]:
        """modelsyncd, connected and quiet. `base`: its settings in the place of the local hub's."""
        configuration = self.root / "modelsyncd.toml"
        hub = f'ca = "{self.root / "hub" / "ca.pem"}"\nconnection_string = "{self.text}"\n'
        configuration.write_text(f'data = "{self.root / "data"}"\n{hub if base is None else base}{more}')
        argv = self.lab.on_device([program("modelsyncd"), "run", "--config", str(configuration)])
        before = self.lab.counts()
        with (self.root / "daemon.log").open("wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            self.next_burst(before, 60)
            quiet(self.lab, _SETTLE)
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def both(later: Any, earlier: Any) -> int:
    """Bytes of both directions between two counts."""
    spent = later - earlier
    return int(spent.up + spent.down)
