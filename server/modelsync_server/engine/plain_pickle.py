"""Unpickling that calls nothing, for a process that reads what other machines' pickles say.

To unpickle is to call what the pickle names. Here a name is a plain type or exception of Python's own, or else an inert
class of that name, never what the name stands for; so plain values and errors come out, and things that do nothing.
"""

from __future__ import annotations

import builtins
import io
import pickle
from collections.abc import Iterable, Mapping
from typing import Any


class Inert(Exception):
    """In place of what a pickle names: takes everything and does nothing. An exception, for it may be raised."""

    def __new__(cls, *arguments: Any, **_: Any) -> Inert:
        return super().__new__(cls, *arguments)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Inert:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """As of a list."""


def _error(kind: type[Exception], attributes: Mapping[str, Any], *_: Any) -> Exception:
    """An error as tblib has it made, with what it says and without its traceback."""
    if not issubclass(kind, Exception):
        raise TypeError("no kind of error")
    found = kind.__new__(kind)
    found.args = tuple(attributes.get("args", ()))
    return found


_TYPES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, Exception)
_STANDING_IN = {
    ("tblib.pickling_support", "unpickle_exception_with_attrs"): _error,
    ("tblib.pickling_support", "unpickle_traceback"): lambda *_: None,
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = getattr(builtins, name, None) if module == "builtins" else _STANDING_IN.get((module, name))
        if (module, name) in _STANDING_IN or (isinstance(found, type) and issubclass(found, _TYPES)):
            return found
        return type(name, (Inert,), {"__module__": module})


def loads(data: bytes, /, *, buffers: Iterable[Any] | None = None, **_: Any) -> Any:
    """As pickle.loads."""
    return _Plain(io.BytesIO(data), buffers=buffers).load()


def only() -> None:
    """From now on nothing else is unpickled in this process. Call it before what unpickles is imported."""

    def load(file: Any, /, *, buffers: Iterable[Any] | None = None, **_: Any) -> Any:
        return _Plain(file, buffers=buffers).load()

    pickle.loads, pickle.load = loads, load  # type: ignore[assignment]
