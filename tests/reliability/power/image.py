"""Makes what a power-cut machine boots: Debian's kernel, and an initramfs with this Python and our device packages.

Nothing is installed on this machine: the kernel's package is downloaded and unpacked into the user's cache folder.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.figures import ROOT

_KERNEL = "linux-image-cloud-amd64"
_MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"),
    *("failover", "net_failover", "virtio_net", "dm-mod", "dm-log-writes"),
)
"""In the order in which they can be loaded."""

_SITE = Path("modelsync/site")
_GUEST = Path("tests/reliability/power/guest.py")
_OWN = (Path("tests/reliability/promises.py"), _GUEST)
_NOT_NEEDED = shutil.ignore_patterns(
    *("test", "idlelib", "tkinter", "ensurepip", "lib2to3", "turtledemo", "site-packages", "dist-packages"),
    *("config-*", "*.a", "tests"),
)


class ImageMissing(Exception):
    """No machine can be made here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Image:
    """What qemu boots."""

    kernel: Path
    initrd: Path


def make(folder: Path, template: Path) -> Image:
    """Build the image in `folder` (which must exist); the guest finds a copy of `template` at /template.

    Raises ImageMissing.
    """
    for tool in ("qemu-system-x86_64", "busybox", "dmsetup", "mkfs.ext4", "ldd", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ImageMissing(f"{tool} is missing (see tests/reliability/power/install).")
    unpacked = _kernel()
    root = folder / "root"
    _lay_out(root, next((unpacked / "lib" / "modules").iterdir()), template)
    initrd = folder / "initrd"
    with initrd.open("wb") as out:
        names = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
        packing = ["busybox", "cpio", "-o", "-H", "newc"]
        subprocess.run(packing, input=names.encode(), cwd=root, stdout=out, stderr=subprocess.DEVNULL, check=True)
    shutil.rmtree(root)
    return Image(next((unpacked / "boot").glob("vmlinuz-*")), initrd)


def _kernel() -> Path:
    """Debian's kernel package, unpacked."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelsync" / "kernel"
    if not cache.is_dir():
        fresh = cache.with_name(f"kernel.making-{os.getpid()}")
        fresh.mkdir(parents=True)
        try:
            depends = subprocess.run(["apt-cache", "depends", _KERNEL], capture_output=True, text=True).stdout
            found = re.search(r"Depends: (linux-image-\S+)", depends)
            if found is None:
                raise ImageMissing(f"apt knows no {_KERNEL}: run apt-get update on a Debian for amd64.")
            done = subprocess.run(["apt-get", "download", found[1]], cwd=fresh, capture_output=True, text=True)
            if done.returncode:
                raise ImageMissing(f"{found[1]} can't be downloaded: {done.stderr.strip()[-200:]}")
            package = next(fresh.glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, fresh], check=True)
            package.unlink()
            fresh.rename(cache)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return cache


def _lay_out(root: Path, modules: Path, template: Path) -> None:
    for name in ("proc", "sys", "dev", "tmp", "run", "data", "bin", "modules", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy(_program("busybox"), root / "bin" / "busybox")
    for number, name in enumerate(_MODULES):
        shutil.copy(next(modules.rglob(f"{name}.ko")), root / "modules" / f"{number:02}-{name}.ko")
    stdlib = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(stdlib, root / stdlib.relative_to("/"), symlinks=True, ignore=_NOT_NEEDED)
    python = Path(sys.executable).resolve()
    for program in (python, _program("dmsetup")):
        _copy(program, root)
    for path, place in _device_packages():
        (root / _SITE / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, root / _SITE / place)
    for own in ("protocol/modelsync_protocol", "daemon/modelsync_daemon"):
        shutil.copytree(ROOT / own, root / _SITE / Path(own).name)
    for path in _OWN:
        (root / _SITE / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, root / _SITE / path)
    for library in _libraries(root):
        _copy(library, root)
    shutil.copytree(template, root / "template", symlinks=True)
    (root / "init").write_text(_INIT.format(site=_SITE, python=python, guest=_GUEST))
    (root / "init").chmod(0o755)


_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
echo 1 > /proc/sys/kernel/printk
for module in /modules/*.ko; do insmod $module; done
ip link set lo up; ip link set eth0 up; ip address add 10.0.2.15/24 dev eth0
export PYTHONPATH=/{site} PYTHONDONTWRITEBYTECODE=1 HOME=/tmp LANG=C.UTF-8
{python} /{site}/{guest} $(cat /proc/cmdline) 2>&1
poweroff -f
"""


def _device_packages() -> Iterator[tuple[Path, Path]]:
    """Files of all that the daemon depends on, and their places in the folder of packages."""
    wanted, seen = ["modelsync-daemon"], set[str]()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name.lower())
            wanted += ["cryptography"] if "crypto" in requirement.extras else []
        if name.startswith("modelsync"):
            continue
        for file in distribution.files or []:
            path = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and "tests" not in file.parts and path.is_file():
                yield path, Path(file)


def _libraries(root: Path) -> set[Path]:
    """The shared libraries that programs and modules below `root` need, where this machine has them."""
    objects = [str(path) for path in root.rglob("*") if ".so" in path.suffixes and path.is_file()]
    programs = [str(Path(sys.executable).resolve()), str(_program("dmsetup"))]
    told = subprocess.run(["ldd", *programs, *objects], capture_output=True, text=True).stdout
    found = {Path(text) for text in re.findall(r"(?:=> |^\t)(/\S+) \(0x", told, re.MULTILINE)}
    return {path for path in found if not path.is_relative_to(root)}


def _program(name: str) -> Path:
    found = shutil.which(name)
    assert found is not None
    return Path(found).resolve()


def _copy(path: Path, root: Path) -> None:
    """To the same place below `root`; links are followed."""
    place = root / path.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, place)
