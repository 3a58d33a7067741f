"""Makes the interpreter that `bin/python` found this environment's own. Python imports it by its name at the start.

Checks release and ABI, takes the interpreter's own packages out of the path, puts this environment's in, and makes
`sys.executable` the launcher, so that processes which are started from here are of the same environment. Kept to
modules that every start has loaded already.
"""

from __future__ import annotations

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_HOME = os.path.dirname(os.path.dirname(_HERE))


def _expected() -> tuple[str, str]:
    """(release such as 3.11, tag in the names of extension modules or an empty text)."""
    with open(os.path.join(_HERE, "expected"), encoding="ascii") as file:
        release, tag = (line.strip() for line in file.read().split("\n")[:2])
    return release, tag


def _refuse(sentence: str) -> None:
    sys.stderr.write(f"{_HOME}/bin/python: {sentence}\n")
    sys.stderr.flush()
    os._exit(5)  # an exception here would be printed as a fault of the interpreter


def _check(release: str, tag: str) -> None:
    import _imp

    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if here != release:
        _refuse(
            f"this environment is for Python {release}, and {sys.executable} is {here}: "
            f"install python{release}, or set MODELSYNC_PYTHON."
        )
    suffixes = _imp.extension_suffixes()
    if tag and "." + tag + ".so" not in suffixes:
        takes = suffixes[0].strip(".").replace(".so", "")
        _refuse(
            f"this environment is built for {tag}, and {sys.executable} takes {takes}: "
            "take an environment that is made for this device."
        )


def _enter(release: str) -> None:
    import site

    kept = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [path for path in kept if path and os.path.abspath(path) != _HERE]
    if kept:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    else:
        os.environ.pop("PYTHONPATH", None)
    kept = [os.path.abspath(path) for path in kept]
    sys.path[:] = [
        path
        for path in sys.path
        if path != _HERE
        and (path in kept or not {"site-packages", "dist-packages"} & set(os.path.normpath(path).split(os.sep)))
    ]
    sys.prefix = sys.exec_prefix = _HOME
    sys.executable = os.path.join(_HOME, "bin", "python")
    site.PREFIXES[:] = [_HOME]
    site.ENABLE_USER_SITE = False
    site.addsitedir(os.path.join(_HOME, "lib", "python" + release, "site-packages"))


_release, _tag = _expected()
_check(_release, _tag)
_enter(_release)
