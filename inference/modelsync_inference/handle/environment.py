"""What this process would run a model with: Python, installed packages. Nothing is imported to find out.

It is said to the daemon, which refuses by it what can't run here before it fetches it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from modelsync_protocol.requirements.releases import normalised

_MOST_PACKAGES = 1500
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._]*)-(\d[A-Za-z0-9.!+_]*?)(?:-py\d[\d.]*)?\.(?:dist|egg)-info")
_MODULES = {
    "onnxruntime": "onnxruntime",
    "sklearn": "scikit-learn",
    "tflite_runtime": "tflite-runtime",
    "ai_edge_litert": "ai-edge-litert",
    "tensorflow": "tensorflow",
    "openvino": "openvino",
    "llama_cpp": "llama-cpp-python",
    "xllamacpp": "xllamacpp",
    "torch": "torch",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "tensorrt": "tensorrt",
}
"""Modules that may be there without a package's metadata, as Debian and vendors' images have them."""
_PROGRAMS = {"llama-server": "llama-cpp-python", "llama-cli": "llama-cpp-python"}
"""Programs that are a runtime without a package of Python."""


def describe(*, builtin: bool) -> dict[str, Any]:
    """This process's environment as the daemon takes it (docs/interfaces.md §3).

    `builtin`: models are run by this package's own runtimes; another runtime may need none of the packages, so then
    they say nothing.
    """
    # A 32-bit Python on a 64-bit kernel takes 32-bit libraries.
    machine = os.uname().machine
    arch = "armv7l" if machine == "aarch64" and sys.maxsize < 2**32 else machine
    document: dict[str, Any] = {"pid": os.getpid(), "python": platform.python_version(), "arch": arch}
    if builtin:
        packages = _packages()
        document |= {"packages": packages, "complete": len(packages) < _MOST_PACKAGES}
    return document


def _packages() -> dict[str, str]:
    """Normalised name → version, the one that an import would find; an empty version is not known."""
    found: dict[str, str] = {}
    for folder in map(Path, sys.path):
        try:
            names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(("dist-info", "egg-info")))
        except OSError:
            continue
        for name in names:
            if match := _NAMED.fullmatch(name):
                found.setdefault(normalised(match[1]), match[2])
            elif name.endswith(".egg-info"):
                plain = normalised(name.removesuffix(".egg-info"))
                found.setdefault(plain, _version(plain))
    for program, name in _PROGRAMS.items():
        if name not in found and shutil.which(program) is not None:
            found[name] = ""
    for module, name in _MODULES.items():
        if not any(each == name or each.startswith(f"{name}-") for each in found) and _is_there(module):
            found[name] = ""
    return dict(sorted(found.items())[:_MOST_PACKAGES])


def _version(name: str) -> str:
    try:
        return metadata.version(name) or ""  # None where its metadata says nothing
    except metadata.PackageNotFoundError:
        return ""


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
