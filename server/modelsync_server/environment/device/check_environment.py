"""Whether this environment is whole and runs here: `bin/check-environment`, before a device switches to it.

Exit code 0, or 3 with one sentence about the first thing that is wrong. Every file that a package recorded is looked
for, every package of environment.json, and the modules that the publisher named are imported.
"""

import csv
import importlib
import json
import os
import sys
from importlib import metadata
from typing import Any

_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _document() -> Any:
    with open(os.path.join(_HOME, "environment.json"), encoding="utf-8") as file:
        return json.load(file)


def _site(release: str) -> str:
    return os.path.join(_HOME, "lib", "python" + release, "site-packages")


def _versions(site: str) -> dict[str, str]:
    """Versions by normalised name of the packages that are there."""
    found = {}
    for each in metadata.distributions(path=[site]):
        name = each.metadata["Name"]
        if name:
            found[name.lower().replace("_", "-").replace(".", "-")] = each.version
    return found


def _missing(site: str) -> str:
    """The first recorded file that is not there with its size; an empty text if none is."""
    for folder in sorted(os.listdir(site)):
        record = os.path.join(site, folder, "RECORD")
        if not folder.endswith(".dist-info") or not os.path.exists(record):
            continue
        with open(record, encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                path = os.path.normpath(os.path.join(site, row[0]))
                if not os.path.exists(path) or (len(row) > 2 and row[2] and os.path.getsize(path) != int(row[2])):
                    return os.path.relpath(path, _HOME)
    return ""


def fault() -> str:
    """What is wrong, in a sentence; an empty text if nothing is."""
    document = _document()
    site = _site(document["python"])
    if document["interpreter"] == "device":  # conda's own list of packages is not Python's
        here = _versions(site)
        for name, version in sorted(document["packages"].items()):
            if here.get(name) != version:
                there = f"has version {here[name]}" if name in here else "is missing"
                return f"the package {name} {there}; the lock says {version}."
    path = _missing(site)
    if path:
        return f"{path} is missing or of another size than its package recorded."
    for name in document["imports"]:
        try:
            importlib.import_module(name)
        except BaseException as error:
            return f"importing {name} fails: {type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    _found = fault()
    if _found:
        sys.stderr.write(f"{_HOME}: {_found}\n")
        sys.exit(3)
    sys.stdout.write("the environment is whole\n")
