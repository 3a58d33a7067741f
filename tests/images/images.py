"""Builds the images of Dockerfile.arm32v7 with buildah, and says how large they are. Needs root."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.images import system
from tests.images.system import Architecture
from tests.support.debian_root import RootMissing, emulated

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("daemon", "inference", "inference-sklearn")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_SECONDS = 2400


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes: what a registry ships (all layers, gzip), and what lies on the device's disk."""

    compressed: int
    unpacked: int


def name(architecture: Architecture, target: str) -> str:
    """The image's name on this machine."""
    return f"localhost/modelsync-{architecture.debian}:{target}"


def import_base(architecture: Architecture) -> str:
    """Make an image of the base system unless there is one of that archive; its id. RootMissing."""
    archive = system.base(architecture)
    image = f"localhost/modelsync-base-{architecture.debian}:{int(archive.stat().st_mtime)}"
    if subprocess.run(["podman", "image", "exists", image], check=False).returncode:
        _, kind, *variant = architecture.platform.split("/")
        labels = ["--os", "linux", "--arch", kind, *(["--variant", variant[0]] if variant else [])]
        _call("podman", "import", "--quiet", *labels, str(archive), image)
    return _call("podman", "image", "inspect", "--format", "{{.Id}}", image).strip()


def build(architecture: Architecture, target: str, platform: str | None = None) -> str:
    """Build `target`; its name. Steps that nothing changed are taken from the last build. RootMissing."""
    native = system.ARCHITECTURES[system.NATIVE]
    command = [
        "nice",
        "buildah",
        "bud",
        "--isolation",
        "chroot",
        "--pull-never",
        "--layers",
        "--force-rm",
        "--format",
        "docker",
    ]
    command += ["--platform", platform or architecture.platform]
    # By their ids: a name is only found for the platform that is built for.
    command += ["--build-arg", f"BASE={import_base(architecture)}", "--build-arg", f"TOOLS={import_base(native)}"]
    if _CERTIFICATES.exists():  # a package index behind a proxy with a certificate of its own
        command += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
    command += ["--target", target, "--tag", name(architecture, target), "--file", "Dockerfile.arm32v7", "."]
    _call(*command)
    return name(architecture, target)


def _call(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise RootMissing(f"`{' '.join(command[:4])} …` failed: " + "\n".join(said[-12:]))
    return done.stdout


def inspect(image: str) -> dict[str, Any]:
    """What the image says of itself."""
    found: list[dict[str, Any]] = json.loads(_call("podman", "image", "inspect", image))
    return found[0]


def sizes(image: str) -> Sizes:
    """Measured on a copy as a registry would hold it."""
    folder = Path(tempfile.mkdtemp(prefix="modelsync-image-"))
    try:
        copy = ["skopeo", "copy", "--quiet", "--dest-compress", "--dest-compress-format", "gzip"]
        _call(*copy, f"containers-storage:{image}", f"dir:{folder}")
        layers = [
            item["digest"].removeprefix("sha256:")
            for item in json.loads((folder / "manifest.json").read_text())["layers"]
        ]
        unpacked = 0
        for layer in layers:
            with gzip.open(folder / layer) as stream:
                while part := stream.read(1 << 20):
                    unpacked += len(part)
        return Sizes(sum((folder / layer).stat().st_size for layer in layers), unpacked)
    finally:
        shutil.rmtree(folder)


def main() -> int:
    """`python -m tests.images.images ARCHITECTURE [TARGET…]`: build, and print each image's name and sizes."""
    architecture = system.ARCHITECTURES[sys.argv[1]]
    try:
        system.install_tools()
        with emulated(architecture.debian):
            for target in sys.argv[2:] or TARGETS:
                image = build(architecture, target)
                measured = sizes(image)
                compressed, unpacked = measured.compressed / 1e6, measured.unpacked / 1e6
                sys.stdout.write(f"{image}: {compressed:.1f} MB compressed, {unpacked:.1f} MB unpacked\n")
    except RootMissing as error:
        sys.stderr.write(f"tests/images: {error}\n")
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
