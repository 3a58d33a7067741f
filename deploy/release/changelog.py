"""The changelog's section of one version, as a release's notes: `python -m deploy.release.changelog VERSION`."""

from __future__ import annotations

import re
import sys

from deploy.release.versions import ROOT, ReleaseError

UNRELEASED = "Unreleased"


def section(text: str, version: str) -> str:
    """What stands below `## VERSION`, which may have a date behind it. ReleaseError: nothing does."""
    head = rf"^## {re.escape(version)}(?![\w.])[^\n]*\n"
    found = re.search(rf"{head}(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise ReleaseError(f"CHANGELOG.md says nothing of {version}: give it a section `## {version}`.")
    return found[1].strip() + "\n"


def notes(version: str) -> str:
    """The section of this repository's changelog."""
    return section((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)


if __name__ == "__main__":
    try:
        sys.stdout.write(notes(sys.argv[1]))
    except ReleaseError as error:
        sys.exit(str(error))
