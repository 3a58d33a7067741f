"""`make release-check`: makes everything that a tag would release, and tries it. Publishes nothing.

What it made lies in dist/ afterwards: wheels, Debian packages, the bill of materials, the notes and SHA256SUMS. The
workflow that a tag starts runs just this, and uploads that folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path

from deploy.release import changelog, versions, wheels
from deploy.release.versions import ROOT, ReleaseError
from tests.release import two_minutes
from tests.release.installed import Environment, run

DIST = ROOT / "dist"
EXTRAS: dict[str, tuple[set[str], set[str]]] = {
    "modelsync": (set(), {"modelsync_protocol", "numpy"}),
    "modelsync[publisher]": ({"modelsync_server"}, {"modelsync_daemon", "modelsync_inference", "onnxruntime"}),
    "modelsync[device]": ({"modelsync_daemon"}, {"modelsync_server", "modelsync_inference", "typer", "rich"}),
    "modelsync[inference]": ({"modelsync_inference"}, {"modelsync_server", "modelsync_daemon", "tuf", "rich"}),
}
"""What can be imported with each extra, and what must not have come with it."""


def check(tagged: str | None) -> None:
    """All of it, each step said before it begins. ReleaseError: what has to be mended."""
    version = versions.version()
    if tagged not in (None, version):
        raise ReleaseError(f"the tag says {tagged}, the packages say {version}")
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    _say("notes from the changelog")
    (DIST / "NOTES.md").write_text(changelog.notes(tagged or changelog.UNRELEASED), encoding="utf-8")
    _say("wheels, built twice")
    _wheels(version)
    _say("Debian packages")
    _debian(version)
    with tempfile.TemporaryDirectory(prefix="modelsync-release-") as name:
        work = Path(name)
        for number, requirement in enumerate(EXTRAS):
            _say(f"{requirement} in a clean environment")
            _extra(work / str(number), requirement)
        _say("modelsync[all,core] and the benchmark in a clean environment")
        whole = Environment(work / "all", ["modelsync[all,core]", "modelsync-bench"], DIST)
        for program in whole.programs():
            if version not in (said := whole.run([program, "--version"])):
                raise ReleaseError(f"{program} --version says {said!r}, the packages say {version}")
        _say("the README's two-minute path and the page's Python, without a network")
        two_minutes.walk(whole, work / "path")
        _say("bill of materials")
        _materials(whole, version)
    files = sorted(DIST.iterdir())
    sums = wheels.digests(files)
    (DIST / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    _say(f"all well: dist/ holds {len(files)} files of {version}")


def _wheels(version: str) -> None:
    first = wheels.build(DIST)
    with tempfile.TemporaryDirectory() as again:
        before = os.umask(0o077)  # another place and another mask must not show
        try:
            second = wheels.build(Path(again))
        finally:
            os.umask(before)
        if wheels.digests(first) != wheels.digests(second):
            raise ReleaseError(f"two builds differ: {wheels.digests(first)}, {wheels.digests(second)}")
    for folder in versions.FOLDERS:
        _whole(folder, version)


def _whole(folder: str, version: str) -> None:
    """A wheel holds every module of its package, the licence, and the right version."""
    name = versions.project(folder)["name"].replace("-", "_")
    (built,) = DIST.glob(f"{name}-{version}-py3-none-*.whl")
    with zipfile.ZipFile(built) as wheel:
        held = set(wheel.namelist())
        package = ROOT / folder / name
        sources = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        info = f"{name}-{version}.dist-info"
        wanted = {str(path.relative_to(ROOT / folder)) for path in sources} | {f"{info}/licenses/LICENSE"}
        if missing := sorted(wanted - held):
            raise ReleaseError(f"the wheel of {folder} lacks {', '.join(missing)}")
        metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))
    if metadata["License-Expression"] != "Apache-2.0" or metadata["Version"] != version:
        raise ReleaseError(f"the wheel of {folder} says {metadata['License-Expression']}, {metadata['Version']}")


def _debian(version: str) -> None:
    if missing := [tool for tool in ("dh", "dpkg-buildpackage", "dpkg-deb") if shutil.which(tool) is None]:
        text = f"{', '.join(missing)}: not installed, so no Debian packages are built (debhelper, dpkg-dev)"
        if os.environ.get("CI"):
            raise ReleaseError(text)
        _say(f"SKIPPED: {text}")
        return
    for line in run([str(ROOT / "deploy" / "deb" / "build"), "--output", str(DIST)]).splitlines():
        found = run(["dpkg-deb", "--field", line, "Version"]).strip()
        if found != version:
            raise ReleaseError(f"{line} says version {found}, the packages say {version}")


def _extra(folder: Path, requirement: str) -> None:
    there, absent = EXTRAS[requirement]
    environment = Environment(folder, [requirement], DIST)
    code = f"""
import importlib.util, json, modelsync
homes = {{}}
for name in modelsync.__all__:
    try:
        homes[name] = getattr(modelsync, name).__module__.partition(".")[0]
    except ImportError as error:
        homes[name] = str(error)
found = [name for name in {sorted(there | absent)!r} if importlib.util.find_spec(name)]
print(json.dumps([homes, found]))
"""
    homes, found = json.loads(environment.python(code))
    if set(found) != there:
        raise ReleaseError(f"{requirement} brings {found}, and should bring {sorted(there)}")
    for name, home in homes.items():
        if home not in there and "pip install 'modelsync[" not in home:
            raise ReleaseError(f"with {requirement} modelsync.{name} is {home!r}")
    if there - set(homes.values()):
        raise ReleaseError(f"with {requirement} no name comes from {there - set(homes.values())}: {homes}")


def _materials(whole: Environment, version: str) -> None:
    """What one gets with everything installed: CycloneDX, held against the schema by the tool itself."""
    place = DIST / f"modelsync-{version}.cdx.json"
    tool = str(ROOT / ".venv" / "tools" / "bin" / "cyclonedx-py")
    pyproject = str(ROOT / "meta" / "pyproject.toml")
    options = ["--output-reproducible", "--validate", "--pyproject", pyproject, "--output-file", str(place)]
    run([tool, "environment", *options, str(whole.program("python"))])
    components = {part["name"] for part in json.loads(place.read_bytes())["components"]}
    if lacking := {"modelsync-protocol", "modelsync-daemon", "tuf", "numpy"} - components:
        raise ReleaseError(f"the bill of materials lacks {sorted(lacking)}")


def _say(text: str) -> None:
    sys.stdout.write(f"release-check: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make release-check", description=__doc__)
    parser.add_argument(
        "--version", metavar="N", help="the version that the tag says; without it, notes are of Unreleased"
    )
    try:
        check(parser.parse_args().version)
    except ReleaseError as error:
        sys.exit(f"release-check: {error}")
