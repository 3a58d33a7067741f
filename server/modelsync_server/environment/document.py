"""environment.json: what an environment is, at the root of its folder. Keys are only ever added."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_protocol.errors import UsageError

NAME = "environment.json"
FORMAT = 1
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_RELEASE = re.compile(r"3\.\d{1,2}")


@dataclass(frozen=True, slots=True)
class Target:
    """What an environment is made for: a Python (`3.11`), and pip's platform tags; none: this machine's."""

    python: str = THIS_PYTHON
    platforms: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not _RELEASE.fullmatch(self.python):
            raise UsageError(f"{self.python!r:.40} is no release of Python; give two numbers, such as 3.11.")

    @property
    def options(self) -> list[str]:
        """pip's options for a machine other than this one; none for this very interpreter."""
        if not self.platforms and self.python == THIS_PYTHON:
            return []
        chosen = ["--python-version", self.python, "--implementation", "cp"]
        return [*chosen, *(word for tag in self.platforms for word in ("--platform", tag))]


@dataclass(frozen=True, slots=True)
class Environment:
    """What was made. `tag`: in the names of extension modules, empty without any; `arch` None: any machine."""

    python: str
    interpreter: str
    """`device`: the device's own is looked for; `included`: it is in the folder."""
    tag: str
    arch: str | None
    packages: Mapping[str, str]
    """Versions by normalised name."""
    imports: Sequence[str]
    """Modules that a device imports before it switches to this environment."""
    folders: Sequence[str]
    """What of the root is the environment's; everything else was put beside it: a model, a script."""
    files: int = 0
    bytes: int = 0

    def document(self) -> dict[str, Any]:
        """The form of environment.json."""
        return {
            "environment": FORMAT,
            "python": self.python,
            "interpreter": self.interpreter,
            "abi": self.tag,
            "arch": self.arch,
            "packages": dict(sorted(self.packages.items())),
            "imports": list(self.imports),
            "folders": sorted(self.folders),
        }

    def write(self, folder: Path) -> None:
        """Write environment.json into the environment's folder."""
        text = json.dumps(self.document(), indent=1, ensure_ascii=False) + "\n"
        (folder / NAME).write_text(text, encoding="utf-8")
