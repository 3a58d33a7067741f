"""Decodes all golden vectors on 32-bit Arm and says how many came out bit by bit; `tests/arm/run` starts it.

`decode_vectors.py FOLDER [--any-machine]` also decodes what make_release.py left in FOLDER; with the option on other
machines than 32-bit Arm too. Needs Python, numpy, zstandard and rfc8785 and no pytest, so that it runs on a bare device
as well. Its last line on stdout is `N passed, M failed`; it exits 1 if anything failed or nothing was run.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import resource
import sys
import time
import traceback
from pathlib import Path

import numpy as np

import modelsync_protocol
from modelsync_protocol.native import library
from tests.arm import release
from tests.protocol.golden import check

NEEDED = {"numpy", "zstandard", "rfc8785"}
OURS = {"modelsync_protocol", "tests", "__main__", "__mp_main__"}
DISTRIBUTION_HOOKS = {"sitecustomize", "usercustomize"}


def is_32_bit_arm() -> None:
    """Anything else would prove nothing that the other tests don't."""
    assert platform.machine().startswith("armv") and sys.maxsize == 2**31 - 1, platform.platform()


def flushes_subnormals() -> None:
    """Arm's vector unit makes subnormals zero, x86's does not: so a decoder that computes in floats is caught."""
    smallest = np.full(1024, 1, np.uint32).view(np.float32)
    assert not (smallest * np.float32(1)).view(np.uint32).any(), "this processor keeps subnormals; use another -cpu"


def every_module_imports() -> None:
    """What a device runs and what a publisher runs, on the Python and numpy of this system."""
    for module in pkgutil.walk_packages(modelsync_protocol.__path__, "modelsync_protocol."):
        importlib.import_module(module.name)


def the_core_is_as_asked() -> None:
    """MODELSYNC_CORE named a library that loads, or none was to run."""
    wanted = os.environ.get(library.VARIABLE)
    found = library.load()
    assert (found.library is not None) == (wanted not in (None, library.OFF)), found.reason


def needs_no_more() -> None:
    """Runs last: by then everything is loaded that decoding loads."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    foreign = loaded - set(sys.stdlib_module_names) - OURS - DISTRIBUTION_HOOKS
    assert foreign <= NEEDED, f"decoding loaded {sorted(foreign - NEEDED)}"


def main(folder: Path, any_machine: bool) -> int:
    """Run every check, one line each."""
    vectors = check.checks()
    arm = [("this is 32-bit Arm", is_32_bit_arm), ("its vector unit flushes subnormals", flushes_subnormals)]
    listed = [
        *([] if any_machine else arm),
        ("the compiled core runs if it should", the_core_is_as_asked),
        ("every module of the protocol imports", every_module_imports),
        *vectors,
        *check.damage_checks(),
        *release.checks(folder),
        (f"decoding needs only {', '.join(sorted(NEEDED))}", needs_no_more),
    ]
    sys.stdout.write(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}\n")
    failed = 0
    for name, run in listed:
        begin = time.monotonic()
        try:
            run()
            outcome = "ok"
        except Exception:
            failed += 1
            outcome = f"FAILED\n{traceback.format_exc()}"
        sys.stdout.write(f"{time.monotonic() - begin:7.2f} s  {name}: {outcome}\n")
        sys.stdout.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"peak resident memory {peak:.0f} MiB (an emulator's own included)\n")
    sys.stdout.write(f"{len(listed) - failed} passed, {failed} failed\n")
    return 0 if vectors and not failed else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--any-machine" in sys.argv[2:]))
