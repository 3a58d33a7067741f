"""Compiles the core: `python -m modelsync_core.build`, and hatchling's hook when a wheel or checkout is installed.

CC names the compiler (a cross compiler builds for its own machine), CFLAGS adds flags. A checkout without a compiler
is installed
without the core, which is said; a wheel without it is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from shlex import split
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand: no hook is needed
    BuildHookInterface = object  # type: ignore[misc,assignment]

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "libmodelsync_core.so"
_FLAGS = (
    "-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra",
    "-ffp-contract=off",  # products are rounded once, to the bit
)  # fmt: skip


class NoCompiler(Exception):
    """There is none; the message says what to install."""


def compile_library(output: Path = LIBRARY) -> Path:
    """Compile the sources in this folder to `output`. NoCompiler, or CalledProcessError with the compiler's words."""
    compiler = split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise NoCompiler(f"there is no C compiler ({compiler[0]}): install gcc, or name one with CC.")
    sources = sorted(map(str, FOLDER.glob("*.c")))
    part = output.with_suffix(".part")
    subprocess.run([*compiler, *_FLAGS, *split(os.environ.get("CFLAGS", "")), "-o", str(part), *sources], check=True)
    part.replace(output)
    return output


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """What hatchling calls."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as made for this machine and any Python 3."""
        try:
            compile_library()
        except (NoCompiler, subprocess.CalledProcessError) as error:
            if version != "editable":
                raise
            print(f"modelsync-core is not built, NumPy does its work: {error}", file=sys.stderr)
            return
        build_data["artifacts"].append("modelsync_core/libmodelsync_core.so")
        platform = os.environ.get("MODELSYNC_CORE_PLATFORM") or sysconfig.get_platform()
        build_data["tag"] = f"py3-none-{platform.replace('-', '_').replace('.', '_')}"


if __name__ == "__main__":
    print(compile_library(Path(sys.argv[1]) if len(sys.argv) > 1 else LIBRARY))
