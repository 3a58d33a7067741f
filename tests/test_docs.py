"""The documents say what is so: the README's commands run as they stand, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _tested_block() -> str:
    text = (ROOT / "README.md").read_text()
    match = re.search(r"<!-- tested by tests/test_docs.py -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert match is not None
    return match[1]


def test_two_minute_path_runs_as_the_readme_says(tmp_path: Path) -> None:
    block = _tested_block()
    set_up = block.splitlines()[:2]
    assert set_up[0].startswith("python3 -m venv") and set_up[1].startswith("pip install ./protocol")
    # The packages are installed already; all else runs as printed, in a copy of what it needs.
    script = "set -e\n" + "\n".join(block.splitlines()[2:])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        # The script ends while its background processes go on, so its own end is what is waited for.
        assert process.wait(timeout=90) == 0
        installed = tmp_path / "device" / "models" / "anomaly" / "current" / "model.onnx"
        assert installed.read_bytes() == (ROOT / "examples" / "anomaly" / "v1" / "model.onnx").read_bytes()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}, which does not exist"


def test_readme_names_the_commands_that_exist() -> None:
    for command in ("modelsync", "modelsyncd", "modelsync-infer"):
        assert Path(sys.executable).with_name(command).exists()
    text = subprocess.run(
        [Path(sys.executable).with_name("modelsync"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in (
        "init",
        "publish",
        "list",
        "price",
        "verify",
        "withdraw",
        "refresh",
        "keys",
        "serve",
        "hub",
        "twin",
    ):
        assert re.search(rf"\b{command}\b", text), command
