"""A real power cut: an emulated machine with Debian's kernel updates a model, and its power goes at a random moment.

Long: `make test-power`. Needs qemu-system-x86, busybox-static, dmsetup, e2fsprogs (tests/reliability/power/install),
and Debian's kernel, which is downloaded once. Ten machines are killed (what the guest had written but not flushed may
be there); then ten disks are made from a log of an update's writes and flushes, without a random part of what had not
been flushed. After each cut: a verified model serves, the update goes on to the target, about one payload is fetched
twice, no garbage stays. A device whose fsync does nothing is noticed.
"""

from __future__ import annotations

import random
import shutil
import string
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reliability.power import writes
from tests.reliability.power.image import Image, ImageMissing, make
from tests.reliability.power.machine import Machine
from tests.reliability.world import KIB, World
from tests.support.figures import record

pytestmark = pytest.mark.long

CUTS = 10
"""Of each kind."""

PAYLOADS = 512 * KIB
"""What may be fetched twice after a cut, bytes."""

_DISK = 48 * KIB * KIB
_LOG = 256 * KIB * KIB


@dataclass(frozen=True, slots=True)
class Lab:
    """A bootable image, and a folder whose content every machine's data disk begins with."""

    image: Image
    template: Path
    world: World
    folder: Path

    def disk(self, name: str, size: int = _DISK, content: Path | None = None) -> Path:
        """A fresh disk; with `content`, ext4 with its defaults that holds it."""
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(size)
        if content is not None:
            subprocess.run(["mkfs.ext4", "-q", "-F", "-d", content, path], check=True)
        return path

    def machine(self, *disks: Path, **options: str) -> Machine:
        """Boots it."""
        return Machine(self.image, disks, self.world.origin.port, self.folder / "console", **options)


@pytest.fixture(scope="module")
def lab(big_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("power")
    template = folder / "template"
    shutil.copytree(big_world.template, template / "modelsync", symlinks=True)
    (template / "trust").mkdir()
    shutil.copy(big_world.shop.trust, template / "trust")
    try:
        image = make(folder, template)
    except ImageMissing as missing:
        pytest.skip(f"LOUD: no power is cut here: {missing}")
    yield Lab(image, template, big_world, folder)
    image.initrd.unlink()


@pytest.mark.timeout(3600)
def test_a_machine_that_is_killed_at_any_moment_of_an_update_serves_and_goes_on(lab: Lab) -> None:
    chance = random.Random(20)
    disk = lab.disk("data", content=lab.template)
    with lab.machine(disk, mode="cycle", first="yes") as machine:
        machine.event("begins")
        begin = time.monotonic()
        assert machine.event("ends")["code"] == 0
        duration, undisturbed = time.monotonic() - begin, machine.received()
    found, twice, before = {2: 0, 3: 0}, [0], undisturbed
    for number in range(CUTS + 1):
        with lab.machine(disk, mode="cycle", first="no") as machine:
            _recovered(machine, found, at_least=2 if number else 3)
            machine.event("begins")
            begun = machine.received()
            twice.append(before + begun - undisturbed)
            time.sleep(duration * (number + chance.random()) / CUTS * 1.1 if number < CUTS else 0)
            machine.cut()
            before = machine.received() - begun
    found[3] -= 1  # of the first update, which was not cut
    assert max(twice) <= PAYLOADS, f"{max(twice)} bytes were fetched twice"
    assert sum(found.values()) == CUTS and found[2], "no cut struck the update"
    record(
        "power-cuts",
        "the machine is killed",
        cuts=CUTS,
        old_version_found=found[2],
        new_version_found=found[3],
        worst_bytes_twice=max(twice),
        wrong=0,
    )


def _recovered(machine: Machine, found: dict[int, int], at_least: int) -> None:
    event = machine.event("found", "wrong")
    assert event["event"] == "found", event
    assert event["serving"] >= at_least, f"version {event['serving']} serves, but 3 was said to be active"
    found[event["serving"]] += 1
    event = machine.event("recovered", "wrong")
    assert event["event"] == "recovered", event


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("durable", [True, False], ids=["as it is", "without fsync"])
def test_what_was_not_flushed_may_be_lost(lab: Lab, durable: bool) -> None:
    """Without fsync the same checks must find something wrong."""
    entries, base = _recorded(lab, durable=durable)
    said = writes.position(entries, "ends")
    chance = random.Random(21)
    begin = writes.position(entries, "begins") + 1
    cuts = sorted(chance.sample(range(begin, said + 1), min(CUTS - 2, said - begin)))
    cuts += [said + 1, len(entries)]  # as soon as it was said to be active, and long after
    disks, lost = [], []
    for number, cut in enumerate(cuts):
        disk = lab.folder / f"cut-{number}"
        unsure, gone = writes.crash_disk(base, entries, cut, (1.0, 0.5, 0.0)[number % 3], chance, disk)
        disks.append(disk)
        lost.append((unsure, gone))
    outcomes = _verified(lab, disks, [cut > said for cut in cuts])
    for disk in disks:
        disk.unlink()
    wrong = [text for text in outcomes.errors if text]
    record(
        "power-cuts",
        f"unflushed writes are dropped{'' if durable else ', the daemon without fsync'}",
        cuts=len(cuts),
        old_version_found=outcomes.found[2],
        new_version_found=outcomes.found[3],
        worst_bytes_twice=outcomes.twice,
        wrong=len(wrong),
    )
    if durable:
        assert not wrong, wrong
        assert any(gone for _, gone in lost), "no unflushed write was dropped"
    else:
        assert wrong, "a device whose fsync does nothing passed every check"


def _recorded(lab: Lab, *, durable: bool) -> tuple[list[writes.Entry], Path]:
    disk = lab.disk("data", content=lab.template)
    base = Path(shutil.copy(disk, lab.folder / "base"))
    log = lab.disk("log", _LOG)
    with lab.machine(disk, log, mode="record", durable="yes" if durable else "no", linger="8") as machine:
        assert machine.event("ends")["code"] == 0
        machine.event("recorded")
    entries = writes.read_log(log)
    log.unlink()
    return entries, base


@dataclass(slots=True)
class Outcomes:
    """`errors`: one text a cut, empty if all was well."""

    errors: list[str]
    found: dict[int, int]
    twice: int = 0


def _verified(lab: Lab, disks: list[Path], promised: list[bool]) -> Outcomes:
    """Recover from every disk, in one boot. `promised`: version 3 had been said to be active."""
    outcomes = Outcomes([""] * len(disks), {2: 0, 3: 0})
    origin = lab.world.origin
    with lab.machine(*disks, mode="verify", letters=string.ascii_lowercase[: len(disks)]) as machine:
        for number, new in enumerate(promised):
            machine.event("disk")
            event = machine.event("found", "wrong")
            if event["event"] == "wrong":
                outcomes.errors[number] = event["error"]
                continue
            serving, journaled = event["serving"], event["journaled"]
            outcomes.found[serving] += 1
            before = origin.object_bytes()
            event = machine.event("recovered", "wrong")
            spent = origin.object_bytes() - before
            outcomes.twice = max(outcomes.twice, spent + journaled - lab.world.update_bytes)
            if event["event"] == "wrong":
                outcomes.errors[number] = event["error"]
            elif serving == 2 and new:
                outcomes.errors[number] = "version 2 serves although 3 was said to be active"
            elif spent + journaled > lab.world.update_bytes + PAYLOADS:
                outcomes.errors[number] = f"{spent} bytes are fetched although the journal holds {journaled}"
        machine.event("verified")
    return outcomes
