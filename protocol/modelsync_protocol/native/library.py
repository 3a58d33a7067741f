"""Finds and loads the compiled core. MODELSYNC_CORE=off does without it; a path takes that library."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

VARIABLE = "MODELSYNC_CORE"
OFF = "off"
ABI = 4
"""The meaning of the functions' arguments that is called here (core.h)."""

_PACKAGE, _FILE = "modelsync_core", "libmodelsync_core.so"


@dataclass(frozen=True, slots=True)
class Found:
    """The library, or a sentence fragment on why there is none."""

    library: ctypes.CDLL | None
    path: str | None
    reason: str


def where() -> tuple[Path | None, str]:
    """The library's file without loading it, or why none is to be loaded."""
    wanted = os.environ.get(VARIABLE)
    if wanted == OFF:
        return None, f"{VARIABLE}={OFF}"
    if wanted:
        return Path(wanted), f"{VARIABLE} names it"
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None, "modelsync-core is not installed"
    path = Path(spec.submodule_search_locations[0]) / _FILE
    return (path, "modelsync-core is installed") if path.is_file() else (None, f"{path} was not built")


@cache
def load() -> Found:
    """Load it once for the process. A library that can't be used is as good as none, and says why."""
    path, reason = where()
    if path is None:
        return Found(None, None, reason)
    try:
        import ctypes  # costs memory where nothing is decoded

        library = ctypes.CDLL(os.fspath(path))
        abi = int(library.modelsync_core_abi())
    except (ImportError, OSError, AttributeError) as error:
        return Found(None, os.fspath(path), f"{path} does not load: {error}")
    if abi != ABI:
        return Found(None, os.fspath(path), f"{path} is of another version (ABI {abi}, {ABI} is needed)")
    return Found(library, os.fspath(path), reason)


def which() -> tuple[bool, str]:
    """Whether nothing is wrong, and which of the two computes here, as a sentence; for doctors."""
    found = load()
    if found.library is not None:
        return True, f"the compiled core decodes and encodes ({found.path})."
    broken = found.path is not None
    return not broken, f"NumPy decodes and encodes, to the same bytes but slower: {found.reason}."
