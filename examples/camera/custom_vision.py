"""Custom Vision's exports: fetched by its training API, and judged on the build machine before they are signed.

`python -m examples.camera.custom_vision fetch …` brings an iteration's zip; `… check ZIP` is the release gate: labels
fit the model, it names reference pictures rightly, and what it answered becomes the probe that devices repeat.
Source: https://learn.microsoft.com/rest/api/customvision/training (v3.3: ExportIteration, GetExports).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
from PIL import Image

from examples.camera.tensors import tensor
from examples.probes import tensor as recorded
from modelsync_inference.runtimes.engines import EngineRuntime
from modelsync_inference.runtimes.onnx_runtime import OnnxRuntime
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LoadedModel
from modelsync_protocol.errors import ModelsyncError
from modelsync_server.sources.port import Scratch
from modelsync_server.sources.zip_file import unpack

KEY = "CUSTOM_VISION_TRAINING_KEY"
MANIFEST = "cvexport.manifest"
_AGAIN_SECONDS, _PATIENCE_SECONDS = 2.0, 600.0
_CASES = 2
"""Pictures in a probe that nobody chose: it is fetched with the version."""


class ExportError(Exception):
    """An export that must not be published, in a sentence."""


@dataclass(frozen=True, slots=True)
class Export:
    """An export that was looked at: the model, its labels in the order of its answers."""

    model: Path
    labels: tuple[str, ...]

    def load(self) -> LoadedModel:
        """The model, in the runtime that devices use."""
        return EngineRuntime(Choice(), OnnxRuntime()).load(self.model)


def labels_of(path: Path) -> tuple[str, ...]:
    """The lines of a labels.txt; ExportError if they are none, empty, or twice the same."""
    try:
        found = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path.name} can't be read as text: export the model again.") from error
    if not found or not all(found):
        raise ExportError(f"{path.name} has an empty line, or none at all: export the model again.")
    if len(set(found)) < len(found):
        raise ExportError(f"{path.name} names a label twice: export the model again.")
    return found


def open_export(folder: Path) -> Export:
    """The export unpacked in `folder`; ExportError unless its manifest, model and labels fit each other."""
    try:
        said = json.loads((folder / MANIFEST).read_text(encoding="utf-8-sig"))
        parts = {part: folder / Path(said[f"{part}FileName"]).name for part in ("Model", "Label")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"there is no usable {MANIFEST}: this is no export of Custom Vision.") from error
    for part, path in parts.items():
        if not path.is_file():
            raise ExportError(f"{path.name}, which {MANIFEST} names, is missing: export the model again.")
        stated = said.get(f"{part}FileSHA1")
        if stated and hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest() != str(stated).lower():
            raise ExportError(f"{path.name} is not the file that {MANIFEST} describes: fetch the export again.")
    export = Export(parts["Model"], labels_of(parts["Label"]))
    try:
        model = export.load()
        answers = shares(model, np.zeros((64, 64, 3), np.uint8))
    except (ModelsyncError, ValueError) as error:
        raise ExportError(f"{export.model.name} can't be run: {error}") from error
    if len(answers) != len(export.labels):
        raise ExportError(
            f"labels.txt has {len(export.labels)} labels and the model gives {len(answers)} shares: "
            "what it says would be called by wrong names."
        )
    return export


def shares(model: LoadedModel, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """How sure the model is of each label, for one picture."""
    inputs = model.inputs[0]
    outputs = [spec.name for spec in model.outputs]
    found = model.run({inputs.name: tensor(frame, inputs.shape or ())}, outputs)[outputs[0]]
    return np.asarray(found, np.float32).reshape(-1)


def references(folder: Path) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """(label, picture) of each LABEL/*.png below `folder`, those called probe*.png first.

    Keep these: a probe travels with its version, and its pictures only once if they stay the same.
    """
    paths = sorted(folder.glob("*/*.png"), key=lambda path: (not path.name.startswith("probe"), path.name, path.parent))
    found = [(path.parent.name, np.asarray(Image.open(path).convert("RGB"))) for path in paths]
    if not found:
        raise ExportError(f"{folder} has no LABEL/*.png to judge the model by.")
    return found


def judge(export: Export, pictures: Sequence[tuple[str, npt.NDArray[np.uint8]]], least: float) -> float:
    """The share of pictures that are named rightly; ExportError below `least`, or if a label is not known."""
    if unknown := sorted({label for label, _ in pictures} - set(export.labels)):
        raise ExportError(f"the model does not know {', '.join(unknown)}, of which there are reference pictures.")
    model = export.load()
    right = sum(export.labels[int(shares(model, frame).argmax())] == label for label, frame in pictures)
    if right < least * len(pictures):
        raise ExportError(
            f"{right} of {len(pictures)} reference pictures are named rightly, less than {least:.0%}: "
            "not published; look at what the model was trained on."
        )
    return right / len(pictures)


def probe(export: Export, pictures: Sequence[tuple[str, npt.NDArray[np.uint8]]], tolerance: str = "0.02") -> bytes:
    """The model's answers to some of the pictures, as a probe file (docs/interfaces.md §2)."""
    model, cases = export.load(), []
    names = [spec.name for spec in model.outputs]
    for _, frame in pictures[:_CASES]:
        feeds = {model.inputs[0].name: tensor(frame, model.inputs[0].shape or ())}
        answers = model.run(feeds, names)
        cases.append(
            {
                "inputs": {name: recorded(value) for name, value in feeds.items()},
                "outputs": {name: recorded(np.asarray(value, np.float32)) for name, value in answers.items()},
            }
        )
    document = {"format": 1, "cases": cases, "tolerance": {"absolute": tolerance, "relative": tolerance}}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


async def fetch(endpoint: str, key: str, project: str, iteration: str, platform: str, flavor: str | None) -> bytes:
    """The zip of an iteration, exported now if it was not before; ExportError, aiohttp.ClientError."""
    base = f"{endpoint.rstrip('/')}/customvision/v3.3/training/projects/{project}/iterations/{iteration}/export"
    wanted = {"platform": platform, **({"flavor": flavor} if flavor else {})}
    async with aiohttp.ClientSession(raise_for_status=True) as session, asyncio.timeout(_PATIENCE_SECONDS):
        headers, asked = {"Training-Key": key}, False
        while True:
            async with session.get(base, headers=headers) as answer:
                exports: list[dict[str, Any]] = await answer.json()
            ours = next((each for each in exports if wanted.items() <= each.items()), None)
            if ours is not None and ours.get("status") == "Failed":
                raise ExportError("Custom Vision could not export this iteration; is it of a compact domain?")
            if ours is not None and ours.get("status") == "Done":
                # The address carries its own access; the training key is for the training API alone.
                async with session.get(str(ours["downloadUri"])) as answer:
                    return await answer.read()
            if ours is None and not asked:
                async with session.post(base, params=wanted, headers=headers):
                    asked = True
            await asyncio.sleep(_AGAIN_SECONDS if ours is not None else _AGAIN_SECONDS / 10)


def check(archive: Path, pictures: Path, least: float, probe_file: Path | None) -> float:
    """The release gate of the build machine, on a zip; ExportError or ModelsyncError if it must not go out."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Scratch(Path(folder)))
        export, known = open_export(Path(folder)), references(pictures)
        found = judge(export, known, least)
        if probe_file is not None:
            probe_file.write_bytes(probe(export, known))
    return found


def main() -> int:
    """The command line; 3 if the export is refused."""
    parser = argparse.ArgumentParser(description="Fetch and judge Custom Vision's exports.")
    commands = parser.add_subparsers(dest="command", required=True)
    bring = commands.add_parser("fetch", help=f"bring an iteration's export; the key is ${KEY}")
    for name in ("endpoint", "project", "iteration"):
        bring.add_argument(f"--{name}", required=True)
    bring.add_argument("--platform", default="ONNX", help="ONNX, or TensorFlow with --flavor TensorFlowLite")
    bring.add_argument("--flavor")
    bring.add_argument("--out", type=Path, required=True, help="the zip")
    judged = commands.add_parser("check", help="refuse (exit 3) what must not be published")
    judged.add_argument("zip", type=Path)
    judged.add_argument(
        "--pictures",
        type=Path,
        required=True,
        help="reference pictures: LABEL/*.png; the first two called probe*.png become the probe",
    )
    judged.add_argument("--min-accuracy", type=float, default=0.95)
    judged.add_argument("--probe", type=Path, help="file for the recorded answers")
    given = parser.parse_args()
    try:
        if given.command == "fetch":
            if not os.environ.get(KEY):
                raise ExportError(f"{KEY} is not set: map the secret into this step's env.")
            asked = (given.endpoint, os.environ[KEY], given.project, given.iteration, given.platform, given.flavor)
            data = asyncio.run(fetch(*asked))
            given.out.write_bytes(data)
            print(f"{given.out.name}: {len(data):,} bytes")
        else:
            print(f"{check(given.zip, given.pictures, given.min_accuracy, given.probe):.1%} of the pictures are right")
    except (ExportError, ModelsyncError) as error:
        print(f"custom_vision: {error}", file=sys.stderr)
        return 3
    except (aiohttp.ClientError, TimeoutError) as error:
        print(f"custom_vision: Custom Vision can't be asked: {str(error) or 'no answer in time'}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
