"""Makes a call where it arrives, and carries its answer or its error home as plain values."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
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
    except Exception as error:
        return error_of(error)


def error_of(error: Exception) -> dict[str, Any]:
    """What was raised, as JSON values; `result_of` raises it again."""
    if isinstance(error, ModelsyncError):
        return {"error": str(error), "exit_code": error.exit_code}
    if isinstance(error, MemoryError):
        return {"error": "memory ran out on a worker; give it more, or start fewer workers.", "exit_code": 5}
    return {"bug": "".join(traceback.format_exception(error))}


def result_of(found: object) -> Any:
    """The answer, or the error that it carries; RefusedError for what is neither, for a worker may lie."""
    match found:
        case {"answer": value} if _is_json(value):
            return value
        case {"error": str(text), "exit_code": code}:
            raise _ROOTS.get(code, LocalError)(text)
        case {"bug": str(text)}:
            raise RuntimeError(f"a worker failed:\n{text}")
    raise RefusedError("a worker's answer can't be read; nothing was signed. See who runs the workers.")


def may_help(found: object) -> bool:
    """Whether trying again may help: the other side could not be reached."""
    return isinstance(found, dict) and found.get("exit_code") == UnreachableError.exit_code


def without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a process may have which reads what workers say."""
    return {name: value for name, value in environment.items() if name not in _NOT_FOR_WORKERS}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _check_versions(wanted: Mapping[str, str]) -> None:
    here = versions()
    other = [
        f"{name} {here.get(name, 'none')} instead of {value}"
        for name, value in wanted.items()
        if here.get(name) != value
    ]
    if other:
        raise UsageError(f"a worker has {', '.join(other)}: give it the same image or environment as this machine's.")
