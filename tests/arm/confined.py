"""The hostile-code tests on 32-bit Arm: Debian's armhf kernel and programs in an emulated machine, which has Landlock
and seccomp. qemu-user, which runs the golden vectors, passes neither on.

`python -m tests.arm.confined` needs root, mmdebstrap, cpio and qemu-system-arm (Debian packages mmdebstrap, cpio,
qemu-system-arm); it prints what pytest said in the machine and ends with its exit code. The root is made once and kept.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.debian_root import mmdebstrap
from tests.support.figures import ROOT

PACKAGES = (
    "base-files,python3,python3-numpy,python3-zstandard,python3-aiohttp,python3-cryptography,python3-onnxruntime,"
    "python3-onnx,python3-seccomp,python3-watchdog,python3-prometheus-client,python3-psutil,python3-packaging,"
    "python3-typing-extensions,python3-pytest,python3-pytest-asyncio,busybox-static,linux-image-armmp-lpae"
)
TESTS = (
    "tests/daemon/confinement/test_taken_over.py",
    "tests/inference/test_onnx_confinement.py",
)
SECONDS = 3600
_PURE = ("tuf", "securesystemslib", "rfc8785", "sd_notify")
"""Pure Python that Debian lacks, or has older."""

_LEFT_OUT = ("dev", "boot", "usr/lib/modules", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl")
_INIT = """#!/usr/bin/busybox sh
export PATH=/usr/bin:/usr/sbin HOME=/root LANG=C.UTF-8 CI=1 PYTHONDONTWRITEBYTECODE=1
/usr/bin/busybox --install -s /usr/sbin
mkdir -p /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /dev/shm
mount -t tmpfs tmp /tmp; mount -t tmpfs shm /dev/shm
mount -t securityfs security /sys/kernel/security
ifconfig lo 127.0.0.1 up
export LD_LIBRARY_PATH=/usr/lib/arm-linux-gnueabihf/blas:/usr/lib/arm-linux-gnueabihf/lapack
cd /modelsync && export PYTHONPATH=/modelsync
uname -a; echo "lsm: $(cat /sys/kernel/security/lsm)"
python3 -m pytest --noconftest -p no:cacheprovider -c /dev/null --rootdir /modelsync -o asyncio_mode=auto -q TESTS
echo "ENDED WITH $?"
poweroff -f
"""


def main() -> int:
    """Make the machine's image, run it, and pass on what it says."""
    with tempfile.TemporaryDirectory(prefix="modelsync-arm-") as scratch:
        root, initrd = Path(scratch) / "root", Path(scratch) / "initrd"
        made = _root()
        subprocess.run(["cp", "-a", made, root], check=True)
        for path in _LEFT_OUT:
            shutil.rmtree(root / path, ignore_errors=True)
        _fill(root)
        kernel = next((made / "boot").glob("vmlinuz-*"))
        with initrd.open("wb") as out:
            names = subprocess.run(["find", ".", "-mindepth", "1"], cwd=root, capture_output=True, check=True).stdout
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names, cwd=root, stdout=out, check=True)
        shutil.rmtree(root)
        machine = [
            "qemu-system-arm",
            "-M",
            "virt",
            "-cpu",
            "cortex-a15",
            "-smp",
            "2",
            "-m",
            "2048",
            "-nographic",
            "-nic",
            "none",
            "-no-reboot",
        ]
        booting = [
            "-kernel",
            str(kernel),
            "-initrd",
            str(initrd),
            "-append",
            "console=ttyAMA0 rdinit=/init panic=-1 quiet",
        ]
        with subprocess.Popen([*machine, *booting], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
            return _listen(running)


def _listen(running: subprocess.Popen[bytes]) -> int:
    assert running.stdout is not None
    code = 1
    for line in running.stdout:
        text = line.decode(errors="replace").rstrip()
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
        if text.startswith("ENDED WITH "):
            code = int(text.removeprefix("ENDED WITH "))
    return code


def _root() -> Path:
    """Debian's packages for armhf, unpacked and not configured: no program of them has run."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelsync"
    root = cache / f"armhf-machine-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}"
    if not root.is_dir():
        fresh = root.with_name(f"{root.name}.making-{os.getpid()}")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        try:
            mmdebstrap(
                fresh, "--variant=extract", "--architectures=armhf", "--skip=check/qemu", f"--include={PACKAGES}"
            )
            fresh.rename(root)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return root


def _fill(root: Path) -> None:
    place = root / "modelsync"
    no_caches = shutil.ignore_patterns("__pycache__")
    for name in ("protocol", "daemon", "inference"):
        shutil.copytree(ROOT / name / f"modelsync_{name}", place / f"modelsync_{name}", ignore=no_caches)
    for name in _PURE:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise SystemExit(f"{name} is not installed here; run make setup first.")
        source = Path(found.origin)
        if source.name == "__init__.py":
            shutil.copytree(source.parent, place / name, ignore=no_caches)
        else:
            shutil.copy(source, place)
    for path in ("tests/support", "tests/daemon/confinement", "tests/inference"):
        shutil.copytree(ROOT / path, place / path, ignore=no_caches)
    for folder in ("tests", "tests/daemon"):
        (place / folder / "__init__.py").touch()
    passwd = root / "etc" / "passwd"
    if not passwd.exists():
        passwd.write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc" / "hostname").write_text("armhf\n")
    init = root / "init"
    init.write_text(_INIT.replace("TESTS", " ".join(TESTS)))
    init.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
