"""A machine emulated by qemu without any help of this processor, whose power can be cut at any moment.

It has Debian's kernel, an initramfs (image.py), disks with a volatile write cache, and one way out: to the origin.
"""

from __future__ import annotations

import json
import queue
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.reliability.power.image import Image

_MEMORY = "768M"
_ORIGIN = bytes((10, 0, 2, 100))
_ETHERNET, _IP = 14, 20
"""Bytes of headers."""


class Machine:
    """Boots with `disks` (raw image files); `options` go to guest.py. Leaving `with` cuts its power."""

    def __init__(self, image: Image, disks: Sequence[Path], origin_port: int, console: Path, **options: str) -> None:
        # On a busy host the kernel's check of its timer fails, and it panics.
        fixed = "console=ttyS0 quiet panic=-1 no_timer_check"
        line = " ".join([fixed, *(f"{key}={value}" for key, value in options.items())])
        drives = [
            part
            for disk in disks
            for part in ("-drive", f"file={disk},format=raw,if=virtio,cache=writeback,file.locking=off")
        ]
        way_out = f"guestfwd=tcp:10.0.2.100:80-cmd:busybox nc 127.0.0.1 {origin_port}"
        self._console = console.open("ab")
        self._packets = console.with_name("packets")
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [
                *("nice", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", _MEMORY, "-no-reboot"),
                *("-nodefaults", "-nographic", "-serial", "stdio", "-kernel", str(image.kernel)),
                *("-initrd", str(image.initrd), "-append", line, *drives),
                *("-netdev", f"user,id=n,restrict=on,{way_out}", "-device", "virtio-net-pci,netdev=n,romfile="),
                *("-object", f"filter-dump,id=dump,netdev=n,file={self._packets}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._console.write(line)
            self._console.flush()
            self._lines.put(line)
        self._lines.put(None)

    def event(self, *names: str, seconds: float = 240.0) -> dict[str, Any]:
        """The next event of these names; what is said before it is passed over. AssertionError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {names} within {seconds} s: see {self._console.name}") from None
            assert line is not None, f"the machine ended before {names}: see {self._console.name}"
            if not line.startswith(b'{"event"'):
                continue
            event: dict[str, Any] = json.loads(line)
            assert event["event"] != "broken", event
            if event["event"] in names:
                return event

    def received(self) -> int:
        """TCP payload that the origin sent and this machine's network card took, bytes. May be asked after a cut."""
        packets, total, position = self._packets.read_bytes(), 0, 24
        while position + 16 <= len(packets):
            length = struct.unpack_from("<I", packets, position + 8)[0]
            packet = packets[position + 16 : position + 16 + length]
            if packet[_ETHERNET + 12 : _ETHERNET + 16] == _ORIGIN:
                whole = struct.unpack_from(">H", packet, _ETHERNET + 2)[0]
                total += whole - _IP - (packet[_ETHERNET + _IP + 12] >> 4) * 4
            position += 16 + length
        return total

    def cut(self) -> None:
        """The power goes."""
        self.process.kill()
        self.process.wait(30)

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._console.close()
