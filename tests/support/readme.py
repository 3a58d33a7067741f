"""What README and docs/api.md show and tests run: the two-minute path, and Python. Runs nothing by itself."""

from __future__ import annotations

import re
import shlex

from tests.support.figures import ROOT

MARK = "<!-- tested by tests/test_docs.py -->\n"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "api.md")
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def two_minutes() -> tuple[list[str], str]:
    """(the lines that install, the rest as a script of bash that stops at the first failure)."""
    found = re.search(rf"{re.escape(MARK)}```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, "the README has no tested block"
    lines = found[1].splitlines()
    count = 1 + max(number for number, line in enumerate(lines) if line.startswith("pip install "))
    return lines[:count], "set -e\n" + "\n".join(lines[count:]) + "\n"


def python() -> list[str]:
    """Every Python snippet, in order."""
    return [block for document in DOCUMENTS for block in _PYTHON.findall(document.read_text(encoding="utf-8"))]


def python_after_two_minutes() -> str:
    """A script that goes the two-minute path and then runs every snippet where that path led."""
    _, script = two_minutes()
    runs = (f"python -c {shlex.quote(block)}\n" for block in python())
    return f"{script}cp examples/anomaly/v2/model.onnx .\n{''.join(runs)}"
