"""Makes a call where it arrives, and carries its answer or its error home as plain values."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import traceback
import zlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from modelsync_protocol.errors import LocalError, ModelsyncError, RefusedError, UnreachableError, UsageError

_SAME = ("modelsync-server", "modelsync-protocol", "zstandard", "numpy")
"""Packages that decide about bytes."""

_NOT_FOR_WORKERS = ("MODELSYNC_KEYS",)
"""Environment variables that say where private keys are."""

_ROOTS = {error.exit_code: error for error in (UsageError, RefusedError, UnreachableError, LocalError)}


@cache
def versions() -> dict[str, str]:
    """What a worker must have as its caller has it, or the same call could give other bytes."""
    found = {"zlib": zlib.ZLIB_RUNTIME_VERSION}
    for name in _SAME:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree
            found[name] = "none"
    return found


def answer(function: str, arguments: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    """Call the function by its name; its answer, or what it raised, as JSON values. Raises nothing."""
    for name in _NOT_FOR_WORKERS:
        os.environ.pop(name, None)
    try:
        _check_versions(wanted)
        module, _, name = function.partition(":")
        work = getattr(importlib.import_module(module), name)
        result = work(**arguments)
        return {"answer": asyncio.run(result) if inspect.iscoroutine(result) else result}
    except ModelsyncError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    except MemoryError:
        return {"error": "memory ran out on a worker; give it more, or start fewer workers.", "exit_code": 5}
    except Exception:
        return {"bug": traceback.format_exc()}


def result_of(found: Mapping[str, Any]) -> Any:
    """The answer, or the error that it carries."""
    if "answer" in found:
        return found["answer"]
    if "error" in found:
        raise _ROOTS.get(found["exit_code"], LocalError)(found["error"])
    raise RuntimeError(f"a worker failed:\n{found['bug']}")


def may_help(found: Mapping[str, Any]) -> bool:
    """Whether trying again may help: the other side could not be reached."""
    return found.get("exit_code") == UnreachableError.exit_code


def _check_versions(wanted: Mapping[str, str]) -> None:
    here = versions()
    other = [
        f"{name} {here.get(name, 'none')} instead of {value}"
        for name, value in wanted.items()
        if here.get(name) != value
    ]
    if other:
        raise UsageError(f"a worker has {', '.join(other)}: give it the same image or environment as this machine's.")
