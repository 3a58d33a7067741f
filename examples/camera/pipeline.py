"""Runs a pipeline's own script lines here, as an agent of Azure Pipelines would: variables, secrets, outputs, gates.

Understood is what such a pipeline needs: `$(NAME)`, `${{ parameters.NAME }}`, an output variable of an earlier stage,
secrets that are there only after AzureKeyVault@2 named them and only in a step's `env`, ManualValidation. Nothing else.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_MACRO = re.compile(r"\$\(([A-Za-z][\w.-]*)\)")
_PARAMETER = re.compile(r"\$\{\{ parameters\.(\w+) \}\}")
_OUTPUT = re.compile(r"\$\[ stageDependencies\.\w+\.\w+\.outputs\['(\w+\.\w+)'\] \]")
_SET = re.compile(r"##vso\[task\.setvariable variable=(\w+);isOutput=true\](.*)")


class PipelineError(Exception):
    """A step failed, or names what it was not given; the message has its own words."""

    def __init__(self, step: str, said: str, code: int = 1) -> None:
        super().__init__(f"{step}: {said.strip()[-600:]}")
        self.code = code


@dataclass(slots=True)
class Agent:
    """`variables`: the variable group and the agent's own; `vault`: secrets by name; `approve` decides at the gate."""

    variables: Mapping[str, str]
    vault: Mapping[str, str]
    approve: Callable[[str], Awaitable[bool]]
    told: Callable[[str], None]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    async def run(self, path: Path, **parameters: str) -> None:
        """Run every stage in its order; PipelineError at the first that fails."""
        document = yaml.load(path.read_text(), yaml.BaseLoader)
        known = {each["name"]: each.get("default") for each in document["parameters"]} | parameters
        if missing := [name for name, value in known.items() if value is None]:
            raise PipelineError(path.name, f"needs the parameters {', '.join(missing)}")
        outputs: dict[str, str] = {}
        for stage in document["stages"]:
            here = dict(self.variables)
            for name, value in stage.get("variables", {}).items():
                found = _OUTPUT.fullmatch(value)
                here[name] = outputs[found[1]] if found else value
            for job in stage["jobs"]:
                await self._job(stage["stage"], job, here, known, outputs)

    async def _job(
        self, stage: str, job: Mapping[str, Any], variables: dict[str, str], parameters: Mapping[str, Any],
        outputs: dict[str, str],
    ) -> None:  # fmt: skip
        secrets: dict[str, str] = {}
        for step in job["steps"]:
            name = step.get("displayName") or step.get("task") or "script"

            task, inputs = step.get("task", ""), step.get("inputs", {})
            if task.startswith("AzureKeyVault@"):
                secrets |= {each: self.vault[each] for each in inputs["SecretsFilter"].split(",")}
            elif task.startswith("ManualValidation@"):
                if not await self.approve(inputs["instructions"]):
                    raise PipelineError(name, "rejected")
            elif script := step.get("script") or inputs.get("inlineScript"):
                if "pip install" in script:
                    continue  # they are installed here
                shown = {key: _filled(value, variables | secrets, name) for key, value in step.get("env", {}).items()}
                self.told(f"{stage}: {name}")
                said = await self._script(
                    name, _PARAMETER.sub(lambda f: str(parameters[f[1]]), script), variables, shown
                )
                for key, value in _SET.findall(said):
                    outputs[f"{step.get('name', '')}.{key}"] = value.strip()
            elif task and not task.startswith("UsePythonVersion@"):
                raise PipelineError(name, f"{task} is not understood here")

    async def _script(self, name: str, script: str, variables: Mapping[str, str], shown: Mapping[str, str]) -> str:
        # Secrets are in no script's text: who wants one says so in `env`, as Azure Pipelines has it.
        text = _filled(script, variables, name)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        plain = {key: value for key, value in os.environ.items() if not key.startswith("MODELSYNC_")}
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", text), cwd=self.folder, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**plain, **self.environment, "PATH": path, **shown},
        )  # fmt: skip
        said = (await process.communicate())[0].decode(errors="replace")
        if process.returncode:
            raise PipelineError(name, said, process.returncode)
        return said


def _filled(text: str, known: Mapping[str, str], step: str) -> str:
    """`text` with its macros replaced; PipelineError for one that is not known."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in known:
            raise PipelineError(
                step, f"$({found[1]}) is not set: no variable, and no secret that AzureKeyVault@2 named before"
            )
        return known[found[1]]

    return _MACRO.sub(value, text)
