"""The front door for Python: which names are public, where they come from, and what is said when a part is missing."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import modelsync

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs" / "api.md").read_text()
PACKAGES = ("modelsync", "modelsync_server", "modelsync_daemon", "modelsync_inference")
NAMES = {
    "HotModel": "modelsync_inference",
    "Release": "modelsync_server",
    "Store": "modelsync_server",
    "create_store": "modelsync_server",
    "hf_hub_download": "modelsync_daemon",
    "open_store": "modelsync_server",
    "pull": "modelsync_daemon",
    "snapshot_download": "modelsync_daemon",
    "status": "modelsync_daemon",
}
"""A name that leaves this list is a new major version."""


def test_these_names_are_public() -> None:
    assert sorted(NAMES) == sorted(modelsync.__all__)
    assert set(NAMES) <= set(dir(modelsync))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_is_its_packages_own(name: str) -> None:
    assert getattr(modelsync, name) is getattr(importlib.import_module(NAMES[name]), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="frobnicate"):
        _ = modelsync.frobnicate


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_lists_exactly_the_public_names(package: str) -> None:
    section = re.search(rf"^## `{package}`\n(.*?)(?=^## |\Z)", API, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/api.md has no section on {package}"
    listed = re.search(r"^Names: (.*?)\.$", section[1], re.MULTILINE | re.DOTALL)
    assert listed is not None, package
    assert re.findall(r"`(\w+)`", listed[1]) == sorted(importlib.import_module(package).__all__), package


def _alone(code: str, *missing: str) -> str:
    """What `code` prints in a process in which the packages `missing` are not installed."""
    hide = f"""
    import sys
    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {missing!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    sys.meta_path.insert(0, Hidden())
    """
    program = textwrap.dedent(hide) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_missing_part_is_named_with_what_installs_it(name: str) -> None:
    extra = {"modelsync_server": "publisher", "modelsync_daemon": "device", "modelsync_inference": "inference"}
    code = f"""
    try:
        from modelsync import {name}
    except ImportError as error:
        print(error)
    """
    said = _alone(code, NAMES[name])
    assert f"pip install 'modelsync[{extra[NAMES[name]]}]'" in said


def test_a_parts_own_missing_library_is_not_mistaken_for_the_part() -> None:
    code = """
    try:
        from modelsync import HotModel
    except ModuleNotFoundError as error:
        print(error.name)
    """
    assert _alone(code, "numpy").strip() == "numpy"


def test_importing_it_imports_no_part() -> None:
    code = """
    import modelsync
    print(sorted(name for name in sys.modules if name.startswith("modelsync_")))
    """
    assert _alone(code).strip() == "[]"
