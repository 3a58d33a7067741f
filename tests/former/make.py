"""Makes an archive of what a version leaves behind: a store with its keys, and a device on version 1.

`python tests/former/make.py OUT.tar.xz` in a checkout of that version. Metadata lives for a century, so that time does
not break it; the keys guard nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

_PUBLISH = """
import sys
from datetime import timedelta
from modelsync_server.trust import signing
for role in signing.LIFETIMES: signing.LIFETIMES[role] = timedelta(days=36500)
signing.MODEL_LIFETIME = timedelta(days=36500)
from modelsync_server.cli import main
main()
"""


def make(out: Path, examples: Path) -> None:
    """Write the archive `out`; `examples` is the folder with the versions of the anomaly model."""
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), examples)
        with tarfile.open(out, "w:xz") as archive:
            for name in ("keys", "store", "device"):
                archive.add(Path(folder) / name, name)


def _fill(root: Path, examples: Path) -> None:
    def modelsync(*arguments: str) -> None:
        subprocess.run([sys.executable, "-c", _PUBLISH, *arguments], cwd=root, check=True)

    modelsync("init", "store", "--keys", "keys")
    for version in ("v1", "v2"):
        modelsync("publish", "store", "anomaly", str(examples / version / "model.onnx"), "--keys", "keys")
    scripts = Path(sys.executable).parent
    served = subprocess.Popen(
        [scripts / "modelsync", "serve", "store", "--port", "18999"], cwd=root, stdout=subprocess.PIPE
    )
    try:
        assert served.stdout is not None
        served.stdout.readline()
        origin = ("--origin", "http://127.0.0.1:18999", "--data", "device", "--trust", "keys/root.json")
        subprocess.run([scripts / "modelsyncd", "pull", "anomaly", *origin, "--version", "1"], cwd=root, check=True)
    finally:
        served.terminate()
        served.wait()
    (root / "store" / ".lock").unlink(missing_ok=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path.cwd() / "examples" / "anomaly")
