"""A confined worker decodes with the compiled core, wherever that is installed, and says so of itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_protocol.native import library
from tests.protocol.golden import check

pytestmark = pytest.mark.skipif(
    library.where()[0] is None and not os.environ.get("CI"), reason=f"no compiled core: {library.where()[1]}"
)
_WORKER = """
import json, sys
from modelsync_daemon.confinement import layers
layers.plan()
layers.forget_environment()
print(json.dumps(layers.confine_worker([sys.argv[1]], [], [])))
assert "numpy" not in sys.modules, "what a worker has not used yet is loaded after the doors are closed"
from tests.protocol.golden import check
from modelsync_protocol.native import core, library
for vector in [each for each in check.frames() if each["folder"] == "codecs"]:
    check.frame(vector)
print(library.load().path)
print(core.core() is not None)
"""


@pytest.mark.parametrize("named", [False, True], ids=["installed", "named by MODELSYNC_CORE"])
def test_a_confined_worker_decodes_with_the_core(named: bool, tmp_path: Path) -> None:
    path, _ = library.where()
    assert path is not None
    environment = {key: value for key, value in os.environ.items() if key != library.VARIABLE}
    if named:
        path = Path(shutil.copy(path, tmp_path / "core.so"))
        environment[library.VARIABLE] = str(path)
    tests = check.GOLDEN.parents[1]
    environment["PYTHONPATH"] = str(tests.parent)
    done = subprocess.run([sys.executable, "-c", _WORKER, str(tests)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    layers, used, runs = done.stdout.splitlines()
    assert (used, runs) == (str(path), "True"), layers
