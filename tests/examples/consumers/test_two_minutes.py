"""The two-minute path of each application's page, line by line, as a person pastes it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support import own_packages, tiny_gguf
from tests.support.addresses import free_port
from tests.support.own_packages import missing

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
NAMES = sorted(path.parent.name for path in (ROOT / "examples" / "consumers").glob("*/README.md"))


def test_every_application_has_a_path() -> None:
    assert NAMES == ["c", "detector", "flask", "llama", "node", "triton"]
    listed = re.findall(r"\[(\w+)\]\(\1/README.md\)", (ROOT / "examples/consumers/README.md").read_text())
    assert sorted(listed) == NAMES


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
def test_its_path_leads_there(tmp_path: Path, name: str) -> None:
    for program in {"c": ("cc", "bash"), "node": ("node",)}.get(name, ()):
        if shutil.which(program) is None:
            missing(f"there is no {program}")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    port = str(free_port())
    for file in (tmp_path / "examples" / "consumers" / name).rglob("*.*"):
        if file.is_file() and file.suffix in (".toml", ".md"):
            file.write_text(file.read_text().replace("8090", port).replace("8000", port))
    page = (tmp_path / "examples" / "consumers" / name / "README.md").read_text()
    [script] = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= prepare(name, tmp_path)
    log = tmp_path / "said"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-e", "-m", "-c", script],
            cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        process.wait(240)
    except subprocess.TimeoutExpired:
        raise AssertionError(log.read_text()) from None
    finally:
        end_session(process.pid)
    said = log.read_text()
    assert process.returncode == 0, said
    expected = {
        "node": r'(?s)"version":"1".*(quarantined|rolled back).*says|no factor.*"version":"1"',
        "c": r"(?s)model 1\n.*rolled back.*model 1\n",
        "detector": r'(?s)"version": 1.*rolled back.*"version": 1',
        "flask": r'(?s)"version": ?1.*quarantined.*"version": ?1',
        "triton": r'(?s)"string_value":"1".*rolled back.*"string_value":"3"',
        "llama": r'(?s)"content":"14".*rolled back.*"content":"14"',
    }[name]
    assert re.search(expected, said), said


def prepare(name: str, folder: Path) -> dict[str, str]:
    """What the page takes for granted: programs and a model. Variables for them."""
    (folder / "bin").mkdir()
    if name == "flask":
        packages = own_packages.folder(HERE / "flask.txt")
        _program(folder / "bin" / "flask", f'exec "{sys.executable}" -m flask "$@"')
        return {"PYTHONPATH": str(packages)}
    if name == "llama":
        packages = own_packages.folder(HERE / "llama.txt")
        tiny_gguf.write(folder / "model.gguf", 2)
        _program(folder / "bin" / "llama-server", f'exec "{sys.executable}" "{HERE / "llama_server.py"}" "$2" "$4"')
        return {"PYTHONPATH": str(packages)}
    if name == "triton":
        packages = own_packages.folder(HERE / "triton.txt")
        home, backends = packages / "pytriton" / "tritonserver", folder / "backends"
        shutil.copytree(home / "backends", backends)
        stub = home / f"python_backend_stubs/{sys.version_info[0]}.{sys.version_info[1]}/triton_python_backend_stub"
        shutil.copy(stub, backends / "python")
        shutil.copy(HERE / "triton_model.py", folder / "model.py")
        for program in (home / "bin" / "tritonserver", backends / "python" / stub.name):
            program.chmod(0o755)
        line = f'exec "{home}/bin/tritonserver" --backend-directory="{backends}" "$@"'
        _program(folder / "bin" / "tritonserver", line)
        libraries = str(packages / "nvidia_pytriton.libs")
        return {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": sysconfig.get_path("platlib")}
    return {}


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def end_session(session: int) -> None:
    """End every process of the session that the script was."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
