"""What ONNX Runtime needs of a system is checked before it aborts, and its harmless lines stay out of the log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelsync_inference.runtimes import onnx_host
from modelsync_protocol.errors import LocalError

_PLACE = "from file ./onnx/defs/math/old.cc line 2729"
_SCHEMA = (
    "Schema error: Trying to register schema with name Abs (domain:  version: 1) "
    f"{_PLACE}, but it is already registered {_PLACE}"
)


def test_a_missing_sys_is_explained(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="mount /sys"):
        onnx_host.check(tmp_path)
    (tmp_path / onnx_host.PROCESSORS).parent.mkdir(parents=True)
    (tmp_path / onnx_host.PROCESSORS).write_text("0-3\n")
    onnx_host.check(tmp_path)


def _said(body: str) -> tuple[int, str]:
    program = (
        "import os\nfrom modelsync_inference.runtimes.onnx_host import without_schema_noise\n"
        f"def native(text): os.write(2, text.encode())\nwith without_schema_noise():\n    {body}\nnative('after\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_schema_lines_are_counted_and_all_others_pass() -> None:
    code, text = _said(f"native('first\\n\\n' + 568 * '{_SCHEMA}\\n\\n' + 'a real error\\nunfinished')")
    assert code == 0
    assert text.startswith("first\n\na real error\nunfinished")
    assert "left out 568 lines" in text and text.endswith("after\n") and "Schema error" not in text


def test_what_is_said_before_an_abort_is_seen() -> None:
    code, text = _said("native('terminate called\\n'); os.abort()")
    assert code == -6 and text == "terminate called\n"


def test_silence_stays_silence() -> None:
    assert _said("pass") == (0, "after\n")
