"""Builds the images of one architecture, runs them as a device would, and says what held: `N passed, N failed`.

`python -m tests.images.check ARCHITECTURE` (armhf, arm64, amd64), as root. Images and layers that did not change are
reused. What runs, runs in a network namespace of its own, so that ports are free and nothing is reached by mistake.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.images import checks, images, system
from tests.images.system import Architecture
from tests.support.debian_root import RootMissing, emulated

_CLONE_NEWNET = 0x40000000


def main() -> int:
    """Build and check; 0 if all held."""
    architecture = system.ARCHITECTURES[sys.argv[1]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that what was started is taken down
    begin = time.monotonic()
    try:
        system.install_tools()
        with emulated(architecture.debian):
            for target in images.TARGETS:
                images.build(architecture, target)
                _say(begin, f"built {images.name(architecture, target)}")
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise RootMissing("there are no network namespaces here.")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            return _check(architecture)
    except RootMissing as error:
        sys.stderr.write(f"tests/images: {error}\n")
        return 5


def _check(architecture: Architecture) -> int:
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="modelsync-images-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with contextlib.closing(checks.Device(architecture, Path(folder))) as device:
            for promise, check in checks.of(device):
                begin = time.monotonic()
                try:
                    _say(begin, f"{promise}: {check() or 'ok'}")
                    passed += 1
                except Exception:
                    _say(begin, f"{promise}: FAILED\n{traceback.format_exc()}")
                    failed += 1
    sys.stdout.write(f"{passed} passed, {failed} failed\n")
    return 1 if failed or not passed else 0


def _say(begin: float, text: str) -> None:
    sys.stdout.write(f"{time.monotonic() - begin:7.1f} s  {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
