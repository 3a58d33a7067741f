"""A line made of two network namespaces: bytes are those of the device's interface, in both directions.

Without a delay the line is a veth pair with offloads off (with them on, headers of merged packets are not counted).
With one it is a pair of TUN interfaces (line.py); this needs no netem. A token bucket at each end limits the rate. Loss
is nft's, at random, on arrival. Nothing of the machine's own network is touched. Needs root, ip, tc, nft and ethtool.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Literal

from modelsync_bench.lab import Counts, LabError, hosts_and_bundle
from modelsync_bench.result import Counter, LinkProfile

SERVER, DEVICE, NAME = "10.210.0.1", "10.210.0.2", "origin.test"
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_TOOLS = ("ip", "tc", "nft", "ethtool", "mount")
_QUEUE_BYTES = 64 * 1024
_QUEUE_SECONDS = 0.2
"""What a modem buffers before it drops: the larger of both."""

_BURST_BYTES = 3200
_AHEAD = ("nice", "-n", "-15")
"""Both ends go before what else the machine does: a receiver that has to wait acknowledges more seldom."""

_numbers = itertools.count()


def why_not() -> str | None:
    """Why no such line can be had here, as a sentence with what to do; None if it can."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not found: apt install iproute2 nftables ethtool."
    if os.geteuid() != 0:
        return "network namespaces need root here: run as root."
    name = f"msb{os.getpid()}t"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "del", name)
    except LabError as error:
        return f"network namespaces are not permitted here: {error}"
    return None


class NamespaceLab:
    """See the module. `scratch` is a folder for small files; `ca` is trusted by all that runs on the device."""

    counter: Counter = "interface"

    def __init__(self, scratch: Path, ca: Path) -> None:
        tag = f"msb{os.getpid()}n{next(_numbers)}"
        self._server, self._device = f"{tag}s", f"{tag}d"
        self._tag = tag
        self._scratch, self._ca = scratch, ca
        self._line: subprocess.Popen[bytes] | None = None
        self._gone = Counts(0, 0)
        self._cut = False
        self.server_host = SERVER
        self.trusts_ca = _BUNDLE.exists()

    @property
    def spaces(self) -> tuple[str, str]:
        """The names of both namespaces: the servers' and the device's."""
        return self._server, self._device

    def __enter__(self) -> NamespaceLab:
        self._hosts, self._bundle = hosts_and_bundle(self._scratch, SERVER, NAME, self._ca)
        try:
            for space in (self._server, self._device):
                _run("ip", "netns", "add", space)
                self._in(space, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
                _run("ip", "-n", space, "link", "set", "lo", "up")
            _run("ip", "-n", self._server, "addr", "add", f"{SERVER}/32", "dev", "lo")
            _run("ip", "-n", self._device, "addr", "add", f"{DEVICE}/32", "dev", "lo")
            self._lay_wire()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take both namespaces away, and whatever is in them with them."""
        self._end_line()
        for space in (self._server, self._device):
            with contextlib.suppress(LabError):
                _run("ip", "netns", "del", space)

    def on_server(self, argv: list[str]) -> list[str]:
        return [*_AHEAD, "ip", "netns", "exec", self._server, *argv]

    def on_device(self, argv: list[str]) -> list[str]:
        # `ip netns exec` gives the process mounts of its own, so what is laid over /etc is seen by it alone.
        lay = f"mount --bind {self._hosts} /etc/hosts"
        if self.trusts_ca:
            lay += f" && mount --bind {self._bundle} {_BUNDLE}"
        return [*_AHEAD, "ip", "netns", "exec", self._device, "sh", "-c", f'{lay} && exec "$@"', "sh", *argv]

    def port(self, usual: int) -> int:
        return usual

    def reach(self, port: int) -> tuple[str, int]:
        return NAME, port

    def counts(self) -> Counts:
        here = self._interface()
        return Counts(self._gone.up + here.up, self._gone.down + here.down)

    def use(self, link: LinkProfile) -> None:
        self._gone = self.counts()
        with contextlib.suppress(LabError):
            _run("ip", "-n", self._device, "link", "del", "line0")
        self._end_line()
        # A busy machine looks like a lost packet to the probing timer: no such repetitions where nothing is lost.
        self._in(self._server, "sysctl", "-qw", f"net.ipv4.tcp_early_retrans={3 if link.round_trip_ms else 0}")
        if link.round_trip_ms:
            self._lay_slow(link)
        else:
            self._lay_wire()
        for space, rate in ((self._server, link.down_bits), (self._device, link.up_bits)):
            if rate is not None:
                queue = max(_QUEUE_BYTES, round(rate / 8 * _QUEUE_SECONDS))
                bucket = ("tbf", "rate", f"{rate}bit", "burst", str(_BURST_BYTES), "limit", str(queue))
                _run("tc", "-n", space, "qdisc", "add", "dev", "line0", "root", *bucket)
        for space in (self._server, self._device):
            with contextlib.suppress(LabError):
                self._in(space, "nft", "delete", "table", "inet", "loss")
            if link.lost_per_mille:
                self._nft(
                    space,
                    "table inet loss { chain arriving { type filter hook input priority 0; "
                    f'iifname "line0" numgen random mod 1000 < {link.lost_per_mille} drop; }}\n}}',
                )

    def cut_after(self, down_bytes: int, how: Literal["reset", "silence"]) -> None:
        self.mend()
        # One quota for both chains: what arrives after it is answered with a reset, and a reset gets through.
        up = (
            'chain up { type filter hook input priority 0; iifname "line0" meta l4proto tcp quota name "line" '
            "reject with tcp reset; }\n"
        )
        self._nft(
            self._server,
            f"table inet cut {{\nquota line {{ over {down_bytes} bytes; }}\n"
            "chain down { type filter hook output priority 0; "
            'oifname "line0" tcp flags & rst == 0 quota name "line" counter drop; }\n'
            f"{up if how == 'reset' else ''}}}",
        )
        self._cut = True

    def is_cut(self) -> bool:
        if not self._cut:
            return False
        listing = self._in(self._server, "nft", "-j", "list", "table", "inet", "cut")
        for entry in json.loads(listing)["nftables"]:
            for part in entry.get("rule", {}).get("expr", ()):
                if part.get("counter", {}).get("packets"):
                    return True
        return False

    def mend(self) -> None:
        self._cut = False
        with contextlib.suppress(LabError):
            self._in(self._server, "nft", "delete", "table", "inet", "cut")

    def _interface(self) -> Counts:
        try:
            listing = json.loads(_run("ip", "-n", self._device, "-j", "-s", "link", "show", "line0"))
        except LabError:
            return Counts(0, 0)
        statistics = listing[0]["stats64"]
        return Counts(statistics["tx"]["bytes"], statistics["rx"]["bytes"])

    def _lay_wire(self) -> None:
        server = ("ip", "-n", self._server)
        _run(*server, "link", "add", "line0", "type", "veth", "peer", "name", "line0", "netns", self._device)
        for space in (self._server, self._device):
            self._in(space, "ethtool", "-K", "line0", "tso", "off", "gso", "off", "gro", "off")
        self._up()
        # Fixed neighbours: no ARP among the counted bytes.
        for space, far in ((self._server, self._device), (self._device, self._server)):
            address = json.loads(_run("ip", "-n", far, "-j", "link", "show", "line0"))[0]["address"]
            there = DEVICE if space == self._server else SERVER
            _run("ip", "-n", space, "neigh", "replace", there, "lladdr", address, "dev", "line0", "nud", "permanent")

    def _lay_slow(self, link: LinkProfile) -> None:
        left, right = f"{self._tag}a", f"{self._tag}b"
        self._line = subprocess.Popen(
            [sys.executable, "-m", "modelsync_bench.line", left, right, str(link.round_trip_ms / 2000)],
            stdout=subprocess.PIPE,
        )
        assert self._line.stdout is not None
        if self._line.stdout.readline() != b"ready\n":
            raise LabError("the delayed line needs /dev/net/tun, which can't be opened here.")
        for name, space in ((left, self._server), (right, self._device)):
            _run("ip", "link", "set", name, "netns", space)
            _run("ip", "-n", space, "link", "set", name, "name", "line0")
        self._up()

    def _up(self) -> None:
        for space, here, there in ((self._server, SERVER, DEVICE), (self._device, DEVICE, SERVER)):
            _run("ip", "-n", space, "link", "set", "line0", "up")
            _run("ip", "-n", space, "route", "replace", there, "dev", "line0", "src", here)

    def _end_line(self) -> None:
        if self._line is not None:
            self._line.kill()
            self._line.communicate()
            self._line = None

    def _in(self, space: str, *argv: str) -> str:
        return _run("ip", "netns", "exec", space, *argv)

    def _nft(self, space: str, rules: str) -> None:
        _run("ip", "netns", "exec", space, "nft", "-f", "-", text=rules)


def _run(*argv: str, text: str = "") -> str:
    done = subprocess.run(argv, capture_output=True, text=True, input=text)
    if done.returncode:
        raise LabError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
