"""deploy/azure's Bicep files say what their templates do. Read here, not compiled: the real `bicep` is not to be had.

The reader knows what the file uses: resources with literal objects, `parent`, `scope`, parameters, outputs; anything
else fails. Each resource's literal values are compared with the template's, which its provider's schema has passed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "azure"
PAIRS = (("main.bicep", "azuredeploy.json"), ("engine.bicep", "engine.json"))
_RESOURCE = re.compile(r"^resource (\w+) '([\w./]+)@([\d-]+)' = \{$")
_EXISTING = re.compile(r"^resource (\w+) '([\w./]+)@([\d-]+)' existing = \{$")
_COMPUTED = "[computed]"
"""Stands for a key that only Azure can evaluate."""
_VALUE = {"true": True, "false": False, "{}": {}, "[]": []}
EXPRESSION = object()
"""Stands for what only Azure can evaluate."""


def _literal(text: str) -> Any:
    if text in _VALUE:
        return _VALUE[text]
    if re.fullmatch(r"\d+", text):
        return int(text)
    quoted = re.fullmatch(r"'([^'$\\]*)'", text)
    return quoted[1] if quoted else EXPRESSION


def _block(lines: list[str], close: str) -> Any:
    """The object or list whose lines follow, up to its closing bracket; takes them off `lines`."""
    found: Any = {} if close == "}" else []
    while (line := lines.pop(0).split(" //")[0].strip()) != close:
        key, colon, rest = line.partition(": ")
        text = rest if colon and close == "}" else line
        assert close == "]" or (colon and re.fullmatch(r"\w+|'\$\{\w+\.id\}'", key)), line
        key = key if key.isidentifier() else _COMPUTED
        value = _block(lines, {"{": "}", "[": "]"}[text]) if text in ("{", "[") else _literal(text)
        if close == "}":
            assert key not in found, f"{key} stands twice"
            found[key] = value if value is not EXPRESSION or key not in ("parent", "scope", "name") else text
        else:
            found.append(text if value is EXPRESSION else value)
    return found


def _read(name: str) -> tuple[dict[str, dict[str, Any]], set[str], dict[str, str]]:
    """Resources by symbol, parameters, outputs."""
    lines = (FOLDER / name).read_text().splitlines()
    resources: dict[str, dict[str, Any]] = {}
    parameters, outputs = set(), {}
    while lines:
        line = lines.pop(0)
        if match := _RESOURCE.match(line):
            assert match[1] not in resources
            resources[match[1]] = {"type": match[2], "apiVersion": match[3], **_block(lines, "}")}
        elif _EXISTING.match(line):
            assert _block(lines, "}").keys() == {"name"}, "what another template made is only named"
        elif match := re.match(r"^param (\w+) string", line):
            parameters.add(match[1])
        elif match := re.match(r"^output (\w+) string = (.+)$", line):
            outputs[match[1]] = match[2]
        else:
            assert not line or line.startswith(("//", "@", "var ")), line
    return resources, parameters, outputs


def _same(bicep: Any, arm: Any, where: str) -> None:
    """What both say literally must be the same, and an expression stands where the other has one."""
    if isinstance(arm, str) and arm.startswith("["):
        assert bicep is EXPRESSION or isinstance(bicep, str), where
    elif isinstance(arm, dict):
        arm = {_COMPUTED if key.startswith("[") else key: value for key, value in arm.items()}
        assert isinstance(bicep, dict) and bicep.keys() == arm.keys(), (where, bicep, arm)
        for key in arm:
            _same(bicep[key], arm[key], f"{where}.{key}")
    elif isinstance(arm, list):
        assert isinstance(bicep, list) and len(bicep) == len(arm), (where, bicep, arm)
        for number, (one, other) in enumerate(zip(bicep, arm, strict=True)):
            _same(one, other, f"{where}[{number}]")
    else:
        assert bicep == arm, where


@pytest.mark.parametrize(("bicep", "template"), PAIRS)
def test_both_templates_deploy_the_same(bicep: str, template: str) -> None:
    assert {path.name for path in FOLDER.glob("*.bicep")} == {name for name, _ in PAIRS}, "every one is compared"
    arm = json.loads((FOLDER / template).read_text())
    resources, parameters, outputs = _read(bicep)
    assert parameters == arm["parameters"].keys() and outputs.keys() == arm["outputs"].keys()
    assert len(resources) == len(arm["resources"])
    symbols = list(resources)
    for symbol, theirs in zip(symbols, arm["resources"], strict=True):  # in the same order, for who compares them
        ours = resources[symbol]
        assert (ours["type"], ours["apiVersion"]) == (theirs["type"], theirs["apiVersion"]), symbol
        keys = theirs.keys() - {"type", "apiVersion", "name", "dependsOn", "scope"}
        assert ours.keys() - {"type", "apiVersion", "name", "parent", "scope", "dependsOn"} == keys, symbol
        for key in keys:
            _same(ours[key], theirs[key], f"{symbol}.{key}")
        parent = ours.get("parent")
        assert (parent is not None) == (theirs["type"].count("/") > 1), f"{symbol} is a child, and says whose"
        if parent is not None:
            assert theirs["type"].startswith(resources[parent]["type"] + "/"), symbol
        if isinstance(ours["name"], str) and "guid" not in ours["name"] and ours["name"] not in parameters:
            assert ours["name"] in theirs["name"], symbol


def test_both_give_the_same_roles_in_the_same_places() -> None:
    arm = json.loads((FOLDER / "azuredeploy.json").read_text())
    text = (FOLDER / "main.bicep").read_text()
    roles = dict(re.findall(r"^var (\w+) = '([0-9a-f-]{36})'", text, re.MULTILINE))
    places = {"models": "'default', 'models')", "uploads": "'default', 'uploads')", "storage": "storageAccounts', p",
              "keyVault": "KeyVault/vaults', p"}  # fmt: skip
    pattern = re.compile(
        r"  scope: (\w+)\n  name: guid\(\1\.id, (\w+)\.name, (\w+)\)\n  properties: \{\n"
        r"    roleDefinitionId: subscriptionResourceId\('Microsoft\.Authorization/roleDefinitions', \3\)\n"
        r"    principalId: \2\.properties\.principalId\n"
    )
    ours = pattern.findall(text)
    theirs = [item for item in arm["resources"] if item["type"] == "Microsoft.Authorization/roleAssignments"]
    assert len(ours) == len(theirs) == 7
    for (scope, who, role), item in zip(ours, theirs, strict=True):
        assert places[scope] in item["scope"], scope
        assert f"'modelsync-{who}'" in item["properties"]["principalId"] and roles[role] in item["name"]
