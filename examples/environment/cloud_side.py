"""The cloud's half: environments made of locks, models trained in exactly these, units of both, and broken ones."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.demo.stage import run, said
from examples.environment.kit import Kit
from examples.environment.little_wheels import lock_of, make_wheel
from examples.stories.telling import Story


@dataclass(slots=True)
class Workshop:
    """Makes what is published. `answers`: by model, what it answered in the cloud."""

    story: Story
    kit: Kit
    answers: dict[int, list[float]]

    def environment(self, number: int) -> Path:
        """Where the environment of lock `number` is."""
        return self.story.work / "cloud" / f"environment-{number}"

    async def make(self, number: int, out: Path | None = None) -> dict[str, Any]:
        """Make the environment of lock `number`, at its place or at `out`."""
        target = self.environment(number) if out is None else out
        target.parent.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = await run(
            *(
                "modelsync",
                "environment",
                str(self.kit.locks[number - 1]),
                str(target),
                "--wheels",
                str(self.kit.wheels),
            ),
            *("--exclude", "*/tests/*", "--import", "line_scoring.service", "--json"),
        )
        return found

    async def train(self, number: int) -> Path:
        """Train model `number` by environment `number`; it needs that release of the bumped package, or a newer one."""
        folder = self.story.work / "cloud" / f"model-{number}"
        program = self.environment(number) / "bin" / "line-train"
        needs = f"{self.kit.bumped}={self.kit.versions[number - 1]}"
        text = await said(str(program), str(folder), str(number), "--needs", needs, environment=self.story.environment)
        document = json.loads(text)
        self.answers[number] = document["answers"]
        self.story.say(f"model {number} trained by {program.parent.parent.name}: error {document['rmse']}")
        return folder

    def requirement(self, number: int) -> str:
        """What model `number` requires of the environment, for `publish --requires`."""
        return f"package:{self.kit.bumped}>={self.kit.versions[number - 1]}"

    def unit(self, number: int) -> Path:
        """Environment and model in one folder, to be one artifact."""
        out = self.story.work / "cloud" / f"unit-{number}"
        shutil.copytree(self.environment(number), out, symlinks=True, copy_function=_linked)
        shutil.copytree(self.story.work / "cloud" / f"model-{number}", out / "model")
        return out

    def without_a_package(self) -> Path:
        """Environment 2 with a package gone, as no lock would make it."""
        out = self.story.work / "cloud" / "environment-without"
        shutil.copytree(self.environment(2), out, symlinks=True, copy_function=_linked)
        package = next(out.glob(f"lib/python3.*/site-packages/{self.kit.bumped}"))
        shutil.rmtree(package)
        return out

    async def for_another_python(self) -> Path:
        """An environment for another release of Python than the device's, well made otherwise."""
        out = self.story.work / "cloud" / "environment-other-python"
        plain = out.with_name("plain-wheels")
        wheel = make_wheel(plain, "plain", "1.0", {"plain.py": "VALUE = 1\n"})
        other = f"3.{sys.version_info.minor + 1}"
        lock = lock_of(out.with_suffix(".txt"), [wheel])
        await said("modelsync", "environment", str(lock), str(out), "--wheels", str(plain), "--python", other)
        return out


def _linked(source: str, target: str) -> None:
    """A hard link: the copy is only read."""
    Path(target).hardlink_to(source)
