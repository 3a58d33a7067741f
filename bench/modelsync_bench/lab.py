"""The line between a device and the servers: the port that namespaces.py and relay_lab.py implement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from modelsync_bench.result import Counter, LinkProfile


class LabError(Exception):
    """The line can't be had here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Bytes so far, seen from the device; `later - earlier` is what lay between."""

    up: int
    down: int

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(self.up - earlier.up, self.down - earlier.down)


class Lab(Protocol):
    """A line. Use as a context manager; leaving it takes away all that it made."""

    counter: Counter
    trusts_ca: bool
    """Whether the device's processes trust the bench's CA in the system's own place."""

    server_host: str
    """The address that servers listen on."""

    def on_server(self, argv: list[str]) -> list[str]:
        """The command that runs `argv` on the servers' side."""

    def on_device(self, argv: list[str]) -> list[str]:
        """The command that runs `argv` on the device."""

    def port(self, usual: int) -> int:
        """A port that a server may take: the usual one where nobody else can have it."""

    def reach(self, port: int) -> tuple[str, int]:
        """Host and port under which the device reaches a server's `port`."""

    def counts(self) -> Counts:
        """What the line has carried."""

    def use(self, link: LinkProfile) -> None:
        """Make the line like this; nothing may be running on the device. LabError if it can't be had."""

    def cut_after(self, down_bytes: int, how: Literal["reset", "silence"]) -> None:
        """Cut when `down_bytes` more went to the device: connections are reset (new ones too), or nothing comes."""

    def is_cut(self) -> bool:
        """Whether an ordered cut has happened."""

    def mend(self) -> None:
        """End a cut, also one that has not happened yet."""


def quiet(lab: Lab, seconds: float) -> Counts:
    """Wait until the line carried nothing for `seconds` (at most 5 s in all), and return the counts."""
    import time

    deadline = time.monotonic() + 5
    last, since = lab.counts(), time.monotonic()
    while time.monotonic() - since < seconds and time.monotonic() < deadline:
        time.sleep(0.02)
        now = lab.counts()
        if now != last:
            last, since = now, time.monotonic()
    return last


def hosts_and_bundle(scratch: Path, address: str, name: str, ca: Path) -> tuple[Path, Path]:
    """Files to lay over /etc/hosts and the system's CA bundle: `name` is at `address`, and `ca` is trusted."""
    hosts, bundle = scratch / "hosts", scratch / "ca-certificates.crt"
    hosts.write_text(f"127.0.0.1 localhost\n{address} {name}\n")
    bundle.write_bytes(ca.read_bytes())
    return hosts, bundle
