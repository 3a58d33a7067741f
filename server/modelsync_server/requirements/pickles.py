"""What a pickle requires: the scikit-learn that wrote it, and other packages it imports from. Nothing is executed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from modelsync_protocol.containers.pickle_walk import Name, Walk
from modelsync_protocol.errors import FormatError
from modelsync_protocol.requirements import terms

SUFFIXES = (".pkl", ".pickle", ".joblib")
_SKLEARN, _VERSION_KEY = "sklearn", "_sklearn_version"
_DISTRIBUTIONS = {"xgboost": "xgboost", "lightgbm": "lightgbm", "catboost": "catboost", "torch": "torch"}
_DISTRIBUTIONS |= {"statsmodels": "statsmodels", "pandas": "pandas", "scipy": "scipy"}
_ZLIB = (b"x\x01", b"x\x9c", b"x\xda", b"x^", b"\x1f\x8b")
_MAX_UNPACKED_BYTES = 64 * 1024 * 1024
_VERSION = re.compile(r"\d{1,4}(?:\.\d{1,4}){1,3}(?:(?:a|b|rc|\.post|\.dev)\d{1,3})?")


def read(data: memoryview, *, proven: bool) -> Iterator[tuple[str, str]]:
    """Yield requirements (key, value); FormatError for what can't be followed. `proven`: any scikit-learn may do."""
    if bytes(data[:2]) in _ZLIB:
        data = _unpacked(data)
    modules: set[str] = set()
    versions: set[str] = set()

    def on_name(name: Name | None) -> None:
        if name is not None:
            modules.add(name.module.partition(".")[0])

    def on_item(key: object, value: object) -> None:
        if key == _VERSION_KEY and isinstance(value, str) and _VERSION.fullmatch(value):
            versions.add(value)

    _walk(Walk(data, on_name=on_name, on_item=on_item), data, modules, versions)
    if _SKLEARN in modules or versions:
        # Parts of several releases: no one release is the right one, which only the probe can settle.
        exact = len(versions) == 1 and not proven
        yield f"{terms.PACKAGE}scikit-learn", f"=={versions.pop()}" if exact else "*"
    for module in sorted(modules & _DISTRIBUTIONS.keys()):
        yield f"{terms.PACKAGE}{_DISTRIBUTIONS[module]}", "*"


def _walk(walk: Walk, data: memoryview, modules: set[str], versions: set[str]) -> None:
    """Follow the opcodes; joblib puts arrays between them, behind which only the estimator's state is still to come."""
    try:
        walk.run()
    except FormatError:
        if not modules:
            raise
        for found in re.finditer(rb"_sklearn_version.{1,8}?(\d{1,4}(?:\.\d{1,4}){1,3})", data, re.DOTALL):
            versions.add(found[1].decode())


def _unpacked(data: memoryview) -> memoryview:
    try:
        content = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, _MAX_UNPACKED_BYTES + 1)
    except zlib.error as error:
        raise FormatError("the compressed pickle is damaged.") from error
    if len(content) > _MAX_UNPACKED_BYTES:
        raise FormatError("the compressed pickle is too long to look into.")
    return memoryview(content)
