"""What a Python environment that `modelsync environment` made requires of a device, by its environment.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from modelsync_protocol.errors import UsageError
from modelsync_protocol.manifest import Manifest
from modelsync_protocol.requirements import terms
from modelsync_protocol.requirements.releases import normalised

_NAME, _FORMAT, _MAX_BYTES = "environment.json", 1, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Surroundings:
    """An environment around a model in the same artifact."""

    requires: Mapping[str, str]
    """Of the device: its machine, and its Python if the environment brings none."""
    packages: Mapping[str, str]
    folders: frozenset[str]

    def owns(self, path: str) -> bool:
        """Whether a file is the environment's: test data of packages are no models."""
        return path.partition("/")[0] in self.folders

    def meets(self, path: str, key: str, value: str) -> bool:
        """Whether a model's requirement is the environment's to meet; UsageError if it does not meet it."""
        if not key.startswith(terms.PACKAGE):
            return False
        name = normalised(key.removeprefix(terms.PACKAGE))
        here = self.packages.get(name)
        try:
            met = here is not None and (value == "*" or SpecifierSet(value).contains(here, prereleases=True))
        except InvalidSpecifier:
            return False
        if not met:
            there = f"has {here}" if here is not None else "has none"
            raise UsageError(
                f"{path} needs {name} {value}, and the environment around it {there}: put it into the lock, or publish "
                "with --no-requires."
            )
        return True


def read(manifest: Manifest, stream: memoryview) -> Surroundings | None:
    """What environment.json at the artifact's root says; None if there is none of ours."""
    offsets = manifest.file_offsets
    for file, begin, end in zip(manifest.files, offsets, offsets[1:], strict=False):
        if file.path != _NAME:
            continue
        try:
            found = json.loads(bytes(stream[begin:end])) if end - begin <= _MAX_BYTES else None
        except (ValueError, RecursionError):
            return None
        match found:
            case {
                "environment": int(version), "python": str(python), "interpreter": str(interpreter),
                "packages": dict(packages), "folders": list(folders), **rest,
            } if version == _FORMAT:  # fmt: skip
                requires = {terms.PYTHON: f"=={python}.*"} if interpreter == "device" else {}
                if isinstance(arch := rest.get("arch"), str):
                    requires[terms.ARCH] = arch
                versions = {normalised(name): version for name, version in packages.items() if type(version) is str}
                return Surroundings(requires, versions, frozenset(map(str, folders)))
        return None
    return None
