"""A small ext4 in a file, on a loop device that counts what is written, journal and metadata too. Needs root."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

_SECTOR = 512


class DiskMissing(Exception):
    """No such disk can be made here; the message says why."""


class CountedDisk:
    """A mounted file system at `path`."""

    def __init__(self, path: Path, device: Path) -> None:
        self.path, self._device = path, device

    def written(self) -> int:
        """Bytes that the device was told to write until now; what is still in memory is written first."""
        subprocess.run(["sync", "--file-system", str(self.path)], check=True)
        fields = Path(f"/sys/block/{self._device.name}/stat").read_text().split()
        return int(fields[6]) * _SECTOR


@contextlib.contextmanager
def counted_disk(folder: Path, mebibytes: int) -> Iterator[CountedDisk]:
    """A fresh ext4 of that size, its image and its mount point in `folder`. Raises DiskMissing."""
    image, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(mebibytes * 2**20)
    _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    device = Path(_run("losetup", "--find", "--show", str(image)).strip())
    try:
        _run("mount", "-o", "noatime", str(device), str(place))
        try:
            yield CountedDisk(place, device)
        finally:
            _run("umount", str(place))
    finally:
        _run("losetup", "--detach", str(device))
        image.unlink()


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        raise DiskMissing(f"{' '.join(command)}: {said}") from error
