"""The wheels of a lock: fetched by pip with their hashes, and looked through for what is missing among them."""

from __future__ import annotations

import configparser
import csv
import email.parser
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError, LocalError, RefusedError, UnreachableError, UsageError
from modelsync_server.environment.document import Target

_NO_BUILDS = """
import runpy, sys
def refuse(event, arguments):
    if event == "subprocess.Popen" and (arguments[0] == sys.executable or sys.executable in arguments[1]):
        sys.stderr.write("BUILDS-NOTHING\\n")
        sys.stderr.flush()
        raise SystemExit(3)
sys.addaudithook(refuse)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""pip, which runs no code of a package: `--no-binary` in a lock or an archive's address would have it build one,
and it builds by starting its own Python."""

_MOST_METADATA_BYTES = 16 * caps.MIB
"""Of one file in dist-info: these are read whole."""

_MACHINE = re.compile(r"(?:^|_)(x86_64|i686|aarch64|armv7l|armv6l|ppc64le|s390x|riscv64)$")
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, csv.Error, configparser.Error)
"""What is said of a wheel that is damaged, encrypted, packed by an unknown method, or lists what is no list."""

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
        *(sys.executable, "-c", _NO_BUILDS, "download", "--quiet", "--disable-pip-version-check", "--no-input"),
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
            _look_through(archive.infolist())
            inner = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
            words = email.parser.BytesHeaderParser().parsebytes(archive.read(inner))
        needs = [Requirement(str(line)) for line in words.get_all("Requires-Dist", ())]
        python = SpecifierSet(str(words.get("Requires-Python", "")))
    except (FormatError, InvalidWheelFilename, InvalidRequirement, InvalidSpecifier, StopIteration, *DAMAGE) as error:
        raise UsageError(f"{path.name} is no wheel that can be read ({error}); take another release of it.") from error
    machines = {found[1] for tag in tags if (found := _MACHINE.search(tag.platform))}
    return Wheel(path, str(name), version, needs, python, min(machines, default=None))


def _look_through(entries: Sequence[zipfile.ZipInfo]) -> None:
    """FormatError for more than is read into memory, or unpacked."""
    for entry in entries:
        if ".dist-info/" in entry.filename and entry.file_size > _MOST_METADATA_BYTES:
            raise FormatError(f"{entry.filename:.80} has {entry.file_size:,} bytes")
    size = sum(entry.file_size for entry in entries)
    if size > caps.MAX_ARTIFACT_BYTES or len(entries) > caps.MAX_FILES:
        raise FormatError(f"it would unpack to {len(entries):,} files, {size:,} bytes, more than a version may have")


def _explained(said: str, lock: Path) -> UsageError | RefusedError | UnreachableError | LocalError:
    """pip's last words as one of our errors."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return LocalError("pip is not installed beside modelsync: run `python -m ensurepip` in its environment.")
    if any(line == "BUILDS-NOTHING" for line in lines):
        return RefusedError(
            f"{lock} asks pip to build a package, which would run its code: list wheels only, without --no-binary and "
            "without addresses of source archives."
        )
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        bad = next((line for line in lines if line.startswith("Expected")), "")
        package = next((line.split(" from ")[0] for line in lines if "==" in line and "from" in line), "a package")
        return RefusedError(f"{package} has another hash than {lock} says ({bad.lower()}): find out who changed it.")
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    errors = [error for error in errors if error != "Exception:"] or lines[-1:]  # a traceback's last line says what
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
