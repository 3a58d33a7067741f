"""What environments are made of: locks and wheels, real ones from the index, or small ones made here."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.demo.stage import StageError
from examples.environment.line_scoring.model import ASKED, ASKED_SEED, readings
from examples.environment.little_wheels import lock_of, make_wheel

HERE = Path(__file__).parent
_SCRIPTS = {"line-train": "line_scoring.train:main", "line-score": "line_scoring.service:main"}


@dataclass(frozen=True, slots=True)
class Kit:
    """Two locks that differ in the release of one package, and a folder with the wheels of both."""

    wheels: Path
    locks: tuple[Path, Path]
    bumped: str
    """The package that differs."""
    versions: tuple[str, str]

    @property
    def wheel(self) -> Path:
        """The wheel of the newer release."""
        return next(self.wheels.glob(f"{self.bumped}-{self.versions[1]}-*.whl"))

    def pinned(self, number: int) -> Sequence[Path]:
        """The wheels of lock `number` (1 or 2)."""
        other = f"{self.bumped}-{self.versions[2 - number]}-"
        return [wheel for wheel in sorted(self.wheels.glob("*.whl")) if not wheel.name.startswith(other)]


def application(folder: Path, requires: Sequence[str]) -> Path:
    """The wheel of line_scoring, as a build of it would make."""
    files = {f"line_scoring/{path.name}": path.read_bytes() for path in sorted((HERE / "line_scoring").glob("*.py"))}
    return make_wheel(folder, "line_scoring", "1.0", files, requires=requires, scripts=_SCRIPTS)


def small(folder: Path) -> Kit:
    """Everything made here; the bumped package is `assay`, with a table of 200 kB beside its code."""
    wheels = folder / "wheels"
    own = application(wheels, ["assay>=1"])
    locks = []
    for number, version in enumerate(("1.0", "1.1"), 1):
        locks.append(lock_of(folder / f"lock-{number}.txt", [_assay(wheels, version), own]))
    return Kit(wheels, (locks[0], locks[1]), "assay", ("1.0", "1.1"))


async def real(folder: Path) -> Kit:
    """With joblib and threadpoolctl from the index that pip is set to, by the committed locks; needs it once."""
    wheels = folder / "wheels"
    for number in (1, 2):
        await pip(
            *("download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"),
            *("--only-binary", ":all:", "--dest", str(wheels), "-r", str(HERE / f"lock-{number}.txt")),
        )
    own = [_assay(wheels, "1.0"), application(wheels, ["assay>=1", "joblib>=1.5"])]
    locks = []
    for number in (1, 2):
        lock = folder / f"lock-{number}.txt"
        lock.write_text((HERE / f"lock-{number}.txt").read_text() + lock_of(folder / "own.txt", own).read_text())
        locks.append(lock)
    return Kit(wheels, (locks[0], locks[1]), "joblib", ("1.5.2", "1.5.3"))


def _assay(wheels: Path, version: str) -> Path:
    files: Mapping[str, str | bytes] = {
        "assay/__init__.py": (HERE / "assay" / "__init__.py").read_text() + f"\n\nVERSION = {version!r}\n",
        "assay/table.bin": random.Random(7).randbytes(200_000),
    }
    return make_wheel(wheels, "assay", version, files)


async def pip(*arguments: str) -> None:
    """Run pip; StageError with its last words."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pip", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise StageError(f"pip found no wheels: {said.decode(errors='replace').strip()[-300:]}")


def asked() -> list[list[float]]:
    """The rows that the device's client asks about: those whose answers training printed in the cloud."""
    return readings(ASKED_SEED, 200)[0][:ASKED]
