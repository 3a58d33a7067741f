"""The wheels of a lock: fetched by pip with their hashes, and looked through for what is missing among them."""

from __future__ import annotations

import email.parser
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from modelsync_protocol.errors import LocalError, RefusedError, UnreachableError, UsageError
from modelsync_server.environment.document import Target

_MACHINE = re.compile(r"(?:^|_)(x86_64|i686|aarch64|armv7l|armv6l|ppc64le|s390x|riscv64)$")
_UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Connection (?:reset|aborted)"
)


@dataclass(frozen=True, slots=True)
class Wheel:
    """One package: its file, name and version, what it needs, and the machine it is built for (None: any)."""

    path: Path
    name: str
    version: Version
    needs: Sequence[Requirement]
    python: SpecifierSet
    machine: str | None


def fetch(lock: Path, folder: Path, target: Target, wheels: Path | None) -> list[Wheel]:
    """Download exactly what the lock pins into `folder`, in the order of names.

    `wheels`: a folder that is taken from, and no index. No code of packages is run, so what comes as source only is
    refused. UsageError, RefusedError for other hashes, UnreachableError.
    """
    if not lock.is_file():
        raise UsageError(f"{lock} does not exist; give a lock: requirements with hashes.")
    if wheels is not None and not wheels.is_dir():
        raise UsageError(f"{wheels} is no folder; give --wheels a folder of wheels.")
    sources = [] if wheels is None else ["--no-index", "--find-links", str(wheels.resolve())]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(folder), *target.options),
        *(*sources, "--requirement", str(lock)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _explained(done.stderr, lock)
    found = sorted((_read(path) for path in sorted(folder.iterdir())), key=lambda wheel: wheel.name)
    if not found:
        raise UsageError(f"{lock} pins nothing; list the environment's packages in it, with hashes.")
    return found


def check_closed(wheels: Sequence[Wheel], target: Target, lock: Path) -> None:
    """UsageError if a package needs one that is not there, another version of it, or another Python."""
    here = {wheel.name: wheel for wheel in wheels}
    surroundings = _surroundings(wheels, target)
    for wheel in wheels:
        if not wheel.python.contains(f"{target.python}.99", prereleases=True):
            raise UsageError(f"{wheel.name} {wheel.version} needs Python {wheel.python}; this is for {target.python}.")
        for need in _in_force(wheel.needs, surroundings):
            found = here.get(canonicalize_name(need.name))
            if found is None or not need.specifier.contains(found.version, prereleases=True):
                lacks = "lacks it" if found is None else f"has {found.version}"
                raise UsageError(
                    f"{wheel.name} {wheel.version} needs {_spelled(need)}, and {lock} {lacks}: compile the lock again, "
                    "with everything in it (pip-compile --generate-hashes, uv pip compile --generate-hashes)."
                )


def _in_force(needs: Iterable[Requirement], surroundings: Mapping[str, str]) -> Iterable[Requirement]:
    return (need for need in needs if need.marker is None or Marker(str(need.marker)).evaluate(dict(surroundings)))


def _spelled(need: Requirement) -> str:
    return f"{need.name}{need.specifier}"


def _surroundings(wheels: Sequence[Wheel], target: Target) -> dict[str, str]:
    """What markers ask for, of the machine that it is made for; nothing is installed for an extra."""
    machine = next((wheel.machine for wheel in wheels if wheel.machine is not None), None)
    said = {"python_version": target.python, "sys_platform": "linux", "os_name": "posix", "platform_system": "Linux"}
    said |= {"implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": ""}
    return said | ({} if machine is None else {"platform_machine": machine})


def _read(path: Path) -> Wheel:
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            inner = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
            words = email.parser.BytesHeaderParser().parsebytes(archive.read(inner))
        needs = [Requirement(str(line)) for line in words.get_all("Requires-Dist", ())]
        python = SpecifierSet(str(words.get("Requires-Python", "")))
    except (InvalidWheelFilename, InvalidRequirement, InvalidSpecifier, StopIteration, zipfile.BadZipFile) as error:
        raise UsageError(f"{path.name} is no wheel that can be read ({error}); take another release of it.") from error
    machines = {found[1] for tag in tags if (found := _MACHINE.search(tag.platform))}
    return Wheel(path, str(name), version, needs, python, min(machines, default=None))


def _explained(said: str, lock: Path) -> UsageError | RefusedError | UnreachableError | LocalError:
    """pip's last words as one of our errors."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return LocalError("pip is not installed beside modelsync: run `python -m ensurepip` in its environment.")
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        bad = next((line for line in lines if line.startswith("Expected")), "")
        package = next((line.split(" from ")[0] for line in lines if "==" in line and "from" in line), "a package")
        return RefusedError(f"{package} has another hash than {lock} says ({bad.lower()}): find out who changed it.")
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")] or lines[-1:]
    if any(_UNREACHABLE.search(line) for line in lines):
        return UnreachableError(f"pip can't reach its index: {errors[-1] if errors else 'no answer'}")
    if any("No matching distribution" in line for line in errors):
        return UsageError(
            f"{errors[-1].rstrip('.')} as a wheel for this Python and platform: make one of it (pip wheel) "
            "and give its folder with --wheels."
        )
    if any("--require-hashes mode" in line or "hashes" in line for line in errors):
        return UsageError(
            f"{lock} is no lock: every package has to be pinned with == and to have a --hash "
            "(pip-compile --generate-hashes, uv pip compile --generate-hashes, uv export)."
        )
    return UsageError(f"pip does not take {lock}: {errors[-1] if errors else 'it says nothing'}")
