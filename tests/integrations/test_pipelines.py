"""The GitHub Action and the Azure DevOps task: descriptions pass their schemas, steps run as an agent runs them.

The agents themselves are not here. Schemas: tests/azure/schemas (azure-task: microsoft/azure-pipelines-task-lib, MIT);
the action's is checked by `make workflows`.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from modelsync_server import create_store
from tests.support.tools import needs

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / "deploy" / "github-action"
TASK = ROOT / "deploy" / "azure-devops"
MODEL = ROOT / "examples" / "anomaly" / "v1" / "model.onnx"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    create_store(tmp_path / "store", keys=tmp_path / "keys")
    return tmp_path


def run(shop: Path, command: Sequence[str | Path], **inputs: str) -> tuple[int, str]:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("INPUT_", "GITHUB_", "AGENT_"))},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(shop / "output"),
        "GITHUB_STEP_SUMMARY": str(shop / "summary"),
        "TMPDIR": str(shop / "temp"),
        "AGENT_TEMPDIRECTORY": str(shop / "temp"),
        **{f"INPUT_{name.upper()}": value for name, value in inputs.items()},
    }
    (shop / "temp").mkdir(exist_ok=True)
    done = subprocess.run(command, env=environment, cwd=shop, capture_output=True, text=True, check=False, timeout=240)
    assert [path for path in (shop / "temp").iterdir() if path.name.startswith(("tmp.", "modelsync-"))] == []
    return done.returncode, done.stdout


def packed_keys(shop: Path) -> bytes:
    done = subprocess.run(["tar", "-C", shop / "keys", "-c", "."], capture_output=True, check=True)
    return done.stdout


def test_the_action_publishes_and_says_so(shop: Path) -> None:
    needs("bash", "tar", "base64")
    step: list[str | Path] = ["bash", ACTION / "publish.sh"]
    keys = base64.b64encode(packed_keys(shop)).decode()
    given = {"store": str(shop / "store"), "model": "anomaly", "keys": keys}
    code, said = run(shop, step, source=str(MODEL), arguments="--meta\nnote=with a space\n", **given)
    assert code == 0, said
    outputs = dict(line.split("=", 1) for line in (shop / "output").read_text().splitlines())
    assert outputs["version"] == "1" and re.fullmatch(r"[0-9a-f]{64}", outputs["manifest"])
    assert int(outputs["install-bytes"]) > 0 and "anomaly version 1" in (shop / "summary").read_text()
    code, said = run(shop, step, source="mlfow:models:/x@y", **given)
    assert code == 2 and "::error title=modelsync publish::modelsync: 'mlfow:" in said
    code, said = run(shop, step, source=str(MODEL), **{**given, "keys": "no tar"})
    assert code == 2 and "::error::the input keys" in said


def test_the_action_takes_each_input_and_hands_no_expression_to_the_shell() -> None:
    action = yaml.safe_load((ACTION / "action.yml").read_text())
    (step,) = action["runs"]["steps"]
    assert "${{" not in step["run"]
    taken = {value for value in step["env"].values() if value.startswith("${{ inputs.")}
    assert taken == {f"${{{{ inputs.{name} }}}}" for name in action["inputs"]}
    script = (ACTION / "publish.sh").read_text()
    assert all(f"INPUT_{name.upper()}" in script for name in action["inputs"])
    assert all(f"{name}=" in script for name in action["outputs"])


def test_the_task_and_its_extension_pass_their_schema() -> None:
    packed = (ROOT / "tests" / "azure" / "schemas" / "azure-task.json.gz").read_bytes()
    schema: Any = json.loads(gzip.decompress(packed))
    task = json.loads((TASK / "publish" / "task.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(task)
    extension = json.loads((TASK / "vss-extension.json").read_text())
    (contribution,) = extension["contributions"]
    assert (TASK / contribution["properties"]["name"] / "task.json").is_file()
    assert [file["path"] for file in extension["files"]] == [contribution["properties"]["name"]]
    assert extension["version"] == ".".join(str(part) for part in task["version"].values())
    script = (TASK / "publish" / task["execution"]["Node20_1"]["target"]).read_text()
    assert all(f'"{each["name"]}"' in script for each in task["inputs"])
    assert all(f"{each['name']}:" in script for each in task["outputVariables"])


def test_the_task_publishes_and_sets_its_outputs(shop: Path) -> None:
    needs("node", "tar")
    (shop / "keys.tar").write_bytes(packed_keys(shop))
    given = {"store": str(shop / "store"), "model": "anomaly", "source": str(MODEL)}
    step: list[str | Path] = ["node", TASK / "publish" / "index.js"]
    code, said = run(shop, step, keys=str(shop / "keys.tar"), **given)
    assert code == 0, said
    assert "##vso[task.setvariable variable=version;isOutput=true]1\n" in said
    assert "##vso[task.complete result=Succeeded]" in said
    code, said = run(shop, step, keys=str(shop / "keys"), **{**given, "source": "nowhere\n##vso[task.x]"})
    assert code == 1 and "result=Failed" in said and "\n##vso[task.x]" not in said
    code, said = run(shop, step, **{**given, "store": ""})
    assert code == 1 and "the input store is missing" in said
    code, said = run(shop, step, keys=str(MODEL), **given)
    assert code == 1 and "no tar of a key folder" in said
