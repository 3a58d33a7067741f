"""The camera: exports and their judge, frames that are never lost, the right version's labels, the story itself."""

from __future__ import annotations

import asyncio
import json
import math
import os
import struct
import subprocess
import sys
import zlib
from argparse import Namespace
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from examples.camera import camera, custom_vision, exports, harm, node, pictures, stand_in, verdict
from examples.camera.frames import Folder, Seen, open_source
from examples.camera.labels import Labels
from examples.camera.pipeline import Agent, PipelineError
from examples.camera.tensors import tensor
from modelsync_protocol.errors import ModelsyncError
from modelsync_server.sources.port import Scratch
from modelsync_server.sources.zip_file import unpack
from tests.examples.stories.running import run_story
from tests.support.waiting import PATIENCE_SECONDS

KEY = "k" * 32


def unpacked(data: bytes, folder: Path) -> Path:
    folder.mkdir()
    (folder.parent / "export.zip").write_bytes(data)
    unpack(folder.parent / "export.zip", Scratch(folder))
    return folder


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    for kind in pictures.KINDS:
        (folder / kind).mkdir()
        for number in range(4):
            Image.fromarray(pictures.picture(kind, rng)).save(folder / kind / f"{number}.png")
    return folder


def test_both_forms_of_the_committed_models_name_parts_and_agree(tmp_path: Path) -> None:
    for version, kinds in ((1, pictures.FIRST_KINDS), (2, pictures.KINDS)):
        seen, wanted = pictures.pictures(kinds, 60, 77)
        answers = []
        for platform in (exports.ONNX, exports.TFLITE):
            export = custom_vision.open_export(
                unpacked(exports.export(version, platform), tmp_path / f"{version}{platform}")
            )
            assert export.labels == kinds
            model = export.load()
            answers.append(np.stack([custom_vision.shares(model, frame) for frame in seen]))
        assert (answers[0].argmax(axis=1) == wanted).mean() > 0.9
        assert np.abs(answers[0] - answers[1]).max() < 1e-4
    assert exports.export(2, exports.TFLITE) == exports.export(2, exports.TFLITE), "the same bytes each time"


@pytest.mark.parametrize(
    "what", ["a label too few", "a name that leads out", "labels in another order", "a cut-off zip"]
)
def test_the_judge_refuses_in_a_sentence(tmp_path: Path, references: Path, what: str) -> None:
    data, word = harm.broken_exports(short="name" in what or "few" in what)[what]
    path = tmp_path / "export.zip"
    path.write_bytes(data)
    with pytest.raises((custom_vision.ExportError, ModelsyncError), match=word):
        custom_vision.check(path, references, 0.95, tmp_path / "probe.json")
    assert not (tmp_path / "probe.json").exists()


def test_a_manifest_that_describes_other_files_is_refused(tmp_path: Path) -> None:
    folder = unpacked(exports.export(1, exports.ONNX), tmp_path / "export")
    for name, text, says in (
        ("labels.txt", "bolt\nnut\nspring\nscrew\n", "fetch the export again"),
        ("labels.txt", "", "fetch the export again"),
        ("cvexport.manifest", "[]", "no export of Custom Vision"),
    ):
        before = (folder / name).read_text()
        (folder / name).write_text(text)
        with pytest.raises(custom_vision.ExportError, match=says):
            custom_vision.open_export(folder)
        (folder / name).write_text(before)
    (folder / "model.onnx").unlink()
    with pytest.raises(custom_vision.ExportError, match="is missing"):
        custom_vision.open_export(folder)


def test_a_probe_holds_what_the_model_answered(tmp_path: Path, references: Path) -> None:
    path = tmp_path / "export.zip"
    path.write_bytes(exports.export(2, exports.TFLITE))
    assert custom_vision.check(path, references, 0.9, tmp_path / "probe.json") >= 0.9
    probe = json.loads((tmp_path / "probe.json").read_text())
    (case, *_) = probe["cases"]
    assert case["inputs"]["Placeholder"]["shape"] == [1, 64, 64, 3]
    assert abs(sum(case["outputs"]["model_output"]["data"]) - 1) < 1e-3


def test_a_picture_becomes_what_the_model_takes() -> None:
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[..., 0] = 255  # red
    assert tensor(frame, (-1, 3, 2, 2))[0, :, 0, 0].tolist() == [0, 0, 255]
    assert tensor(frame, (1, 2, 2, 3))[0, 0, 0].tolist() == [0, 0, 255]
    assert tensor(frame, (1, 4, 4, 3), bgr=False, full=1)[0, 3, 3].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="pictures are"):
        tensor(frame, (1, 12))


def test_labels_are_those_of_the_version_that_answered(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "parts"
    for path, text in (("1-a", "bolt\nnut\n"), ("2-b", "bolt\ngasket\nnut\n")):
        (folder / path).mkdir(parents=True)
        (folder / path / "labels.txt").write_text(text)
    labels = Labels(tmp_path, "parts")
    with pytest.raises(LookupError):
        labels.of(1)
    (folder / "current.json").write_text(json.dumps({"version": 1, "path": "1-a", "previous": None}))
    assert labels.name(1, [0.2, 0.8]) == ("nut", 0.8)
    with pytest.raises(LookupError, match="not installed"):
        labels.of(2)
    previous = {"version": 1, "path": "1-a"}
    (folder / "current.json").write_text(json.dumps({"version": 2, "path": "2-b", "previous": previous}))
    assert labels.name(2, [0.1, 0.8, 0.1]) == ("gasket", 0.8)
    assert Labels(tmp_path, "parts").name(1, [0.2, 0.8]) == ("nut", 0.8), "an answer of the version before"
    (folder / "3-c").mkdir()
    (folder / "3-c" / "labels.txt").write_text("screw\r\nnut\r\n")
    (folder / "candidate.json").write_text(json.dumps({"version": 3, "path": "3-c"}))
    assert labels.name(3, [0.9, 0.1]) == ("screw", 0.9), "one on trial"
    with pytest.raises(LookupError, match="3 shares and has 2 labels"):
        labels.name(1, [0.1, 0.1, 0.8])
    for share in (math.nan, math.inf):
        with pytest.raises(LookupError, match="no numbers"):
            labels.name(1, [0.5, share])


def test_frames_have_numbers_and_begin_where_the_camera_was_killed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no"):
        open_source(str(tmp_path))
    with pytest.raises(ValueError, match=r"OpenCV|can't be opened"):
        open_source(str(tmp_path / "video0"))
    for number in range(3):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    frames = Folder(tmp_path).frames(5)
    assert [(seen.number, seen.name) for seen in (next(frames), next(frames))] == [(5, "1.png"), (6, "2.png")]
    path = tmp_path / "frames.jsonl"
    path.write_bytes(b'{"frame":1}\n{"frame":2}\n{"fra')
    results = camera.Results(path)
    assert results.last == 2
    results.write({"frame": 3})
    assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [1, 2, 3]


async def test_a_picture_that_is_none_costs_its_own_frame(tmp_path: Path) -> None:
    folder = tmp_path / "film"
    folder.mkdir()
    Image.new("RGB", (8, 6)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    Image.effect_noise((64, 64), 50).save(folder / "c.png")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:900])
    for name, size in (("d.png", (7681, 4321)), ("e.png", (20_000, 20_000))):
        head = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r" + head + struct.pack(">I", zlib.crc32(head)))
    seen = dict(zip("abcdea", Folder(folder).frames(1), strict=False))
    assert [name for name, each in seen.items() if each.frame is None] == ["b", "c", "d", "e"]
    waiting, results = asyncio.Queue[Seen](), camera.Results(tmp_path / "results")
    waiting.put_nowait(seen["b"])
    task = asyncio.create_task(camera.label(waiting, None, None, results))  # type: ignore[arg-type]
    await waiting.join()
    task.cancel()
    line = json.loads((tmp_path / "results").read_text())
    assert line["frame"] == 2 and "no picture" in line["lost"]


def test_a_model_takes_no_picture_that_no_pod_can_hold() -> None:
    with pytest.raises(ValueError, match="more than a camera's pod can hold"):
        tensor(np.zeros((4, 4, 3), np.uint8), (1, 3, 100_000, 100_000))


def test_the_verdict_finds_each_kind_of_broken_promise() -> None:
    def line(frame: int, label: str | None, version: int = 1, kind: str = "nut") -> dict[str, Any]:
        return {"frame": frame, "label": label, "version": version, "name": f"0001-{kind}.png"}

    lines = [line(1, "nut"), line(2, None), line(4, "nut", 2), line(4, "bolt", 2)]
    assert verdict.lost(lines) == [2, 3] and verdict.twice(lines) == [4]
    assert verdict.misnamed(lines, {1: ("nut",), 2: ("nut",)}) == [lines[1], lines[3]]
    assert verdict.right(lines) == (2, 4) and verdict.right(lines, "bolt") == (0, 0)
    assert verdict.versions(lines) == [1, 2]


class Pod:
    """A scoring pod as the protocol has it; `down`: it closes the line without an answer."""

    def __init__(self) -> None:
        self.down, self.asked = False, 0

    async def __aenter__(self) -> Pod:
        application = web.Application()
        application.add_routes([web.get("/v2/models/m", self._about), web.post("/v2/models/m/infer", self._infer)])
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _about(self, request: web.Request) -> web.Response:
        tensors = [{"name": "data", "datatype": "FP32", "shape": [-1, 3, 4, 4]}]
        return web.json_response({"inputs": tensors, "outputs": [{"name": "y", "shape": [-1, 2]}]})

    async def _infer(self, request: web.Request) -> web.Response:
        self.asked += 1
        await request.read()
        if self.down:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"model_version": "1", "outputs": [{"data": [0.3, 0.7]}]})


async def test_a_pod_that_dies_costs_no_frame() -> None:
    seen = Seen(1, "x", np.zeros((4, 4, 3), np.uint8))
    async with Pod() as first, Pod() as second, aiohttp.ClientSession(raise_for_status=True) as session:
        scoring = camera.Scoring([first.url, second.url], "m", session)
        assert [(await scoring.shares(seen))[2] for _ in range(4)] == [0, 1, 0, 1], "in turn"
        first.down = True
        assert [(await scoring.shares(seen))[2:] for _ in range(2)] == [(1, 2), (1, 2)]
        second.down = True
        waiting = asyncio.create_task(scoring.shares(seen))
        await asyncio.sleep(0.3)
        assert not waiting.done(), "a frame waits rather than go without"
        first.down = False
        assert (await waiting)[2] == 0


async def test_a_live_camera_says_which_frames_it_lost(tmp_path: Path) -> None:
    class Live:
        live = True

        def frames(self, first: int) -> Any:
            return (Seen(number, "video0", np.zeros((4, 4, 3), np.uint8)) for number in range(first, first + 5))

    results, waiting = camera.Results(tmp_path / "r"), asyncio.Queue[Seen](2)
    grabbing = asyncio.create_task(camera.grab(Live(), 1, 1000, waiting, results))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while waiting.qsize() < 2 or len((tmp_path / "r").read_text().splitlines()) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [waiting.get_nowait().number for _ in range(2)] == [4, 5], "the newest are kept"
    assert [json.loads(line)["frame"] for line in (tmp_path / "r").read_text().splitlines()] == [1, 2, 3]
    grabbing.cancel()
    await asyncio.gather(grabbing, return_exceptions=True)


@pytest.fixture
async def vision(tmp_path: Path) -> AsyncIterator[str]:
    (tmp_path / "i2-ONNX.zip").write_bytes(b"the zip")
    told: list[str] = []
    task = asyncio.create_task(stand_in.serve(tmp_path, KEY, told.append))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not told:  # noqa: ASYNC110 - it is told by a call
            await asyncio.sleep(0.01)
    yield told[0]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_iteration_is_exported_fetched_and_the_key_goes_nowhere_else(
    vision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_vision, "_AGAIN_SECONDS", 0.05)
    assert await custom_vision.fetch(vision, KEY, "p", "i2", "ONNX", None) == b"the zip"
    assert await custom_vision.fetch(vision, KEY, "p", "i2", "ONNX", None) == b"the zip", "it was exported already"
    with pytest.raises(custom_vision.ExportError, match="compact domain"):
        await custom_vision.fetch(vision, KEY, "p", "i3", "ONNX", None)
    with pytest.raises(aiohttp.ClientResponseError, match="401"):
        await custom_vision.fetch(vision, "other", "p", "i2", "ONNX", None)


def _agent(folder: Path, told: list[str]) -> Agent:
    async def approve(instructions: str) -> bool:
        return instructions == "yes"

    return Agent({"STORE": "s"}, {"secret": "v"}, approve, told.append, folder)


async def test_the_pipelines_agent_gives_secrets_to_those_who_say_so_and_stops_at_its_gate(tmp_path: Path) -> None:
    text = """
parameters: [{{ name: model }}, {{ name: flavor, default: "" }}]
stages:
  - stage: A
    jobs:
      - steps:
          {early}
          - {{ task: AzureKeyVault@2, inputs: {{ SecretsFilter: secret }} }}
          - script: |
              printf %s "$GIVEN/${{SECRET-}}/$(STORE)/${{{{ parameters.model }}}}" > said
              echo "##vso[task.setvariable variable=v;isOutput=true]7"
            name: first
            env: {{ GIVEN: $(secret) }}
  - stage: B
    variables: {{ version: "$[ stageDependencies.A.A.outputs['first.v'] ]" }}
    jobs:
      - steps:
          - {{ task: ManualValidation@1, inputs: {{ instructions: "{answer}" }} }}
          - {{ script: printf %s "$(version)" > version }}
"""
    path = tmp_path / "p.yml"
    path.write_text(text.format(early="", answer="yes"))
    told: list[str] = []
    await _agent(tmp_path, told).run(path, model="m")
    assert (tmp_path / "said").read_text() == "v//s/m" and (tmp_path / "version").read_text() == "7"
    assert told == ["A: script", "B: script"]
    with pytest.raises(PipelineError, match="needs the parameters model"):
        await _agent(tmp_path, []).run(path)
    path.write_text(text.format(early="- { script: x, env: { GIVEN: $(secret) } }", answer="yes"))
    with pytest.raises(PipelineError, match="no secret that AzureKeyVault@2 named before"):
        await _agent(tmp_path, []).run(path, model="m")
    path.write_text(text.format(early="- { script: exit 3 }", answer="yes"))
    with pytest.raises(PipelineError) as failed:
        await _agent(tmp_path, []).run(path, model="m")
    assert failed.value.code == 3
    (tmp_path / "version").unlink()
    path.write_text(text.format(early="", answer="no"))
    with pytest.raises(PipelineError, match="rejected"):
        await _agent(tmp_path, []).run(path, model="m")
    assert not (tmp_path / "version").exists()


def test_a_node_runs_what_its_manifests_say() -> None:
    found = node.containers()
    assert set(found) == {"modelsyncd", "scoring", "scoring-lite", "camera", "camera-lite"}
    told = node.placed(found["camera-lite"], {"--scoring": ["http://a", "http://b"], "--data": "/x"})
    assert told[told.index("--model") + 1] == "parts-lite"
    assert [told[at + 1] for at, word in enumerate(told) if word == "--scoring"] == ["http://a", "http://b"]
    assert told[told.index("--data") + 1] == "/x"
    parsed: Namespace = camera.parser().parse_args(list(found["camera"])[3:])
    assert parsed.source == "/dev/video0" and parsed.model == "parts"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_opencv_gives_frames_in_red_green_blue_and_says_what_is_no_camera(tmp_path: Path) -> None:
    pins = Path(__file__).with_name("camera.txt")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(pins)]
    subprocess.run([*command, "--target", str(tmp_path / "opencv")], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.examples.stories.film", str(tmp_path / "film.avi")],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(tmp_path / "opencv")},
    )  # fmt: skip
    film, refused = (json.loads(line) for line in done.stdout.splitlines())
    assert [each[0] for each in film["seen"]] == [1, 2, 3, 4] and film["later"] == [3, 4] and not film["live"]
    for number, (_, name, shape, (red, green, blue)) in enumerate(film["seen"]):
        assert name == "film.avi" and shape == [16, 32, 3]
        assert abs(red - 80 * number) < 12 and max(green, blue) < 12
    assert "/dev/video97 can't be opened" in refused["refused"]


@pytest.mark.timeout(600)
def test_the_abridged_story_of_one_node(tmp_path: Path) -> None:
    report = run_story("camera", tmp_path, "--short", seconds=560)
    assert {charge["way"].split(",")[0] for charge in report["bill"]} == {"modelsync", "image", "the zip"}
    assert (tmp_path / "story-camera.svg").stat().st_size > 10_000


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_whole_story_in_under_four_minutes(tmp_path: Path) -> None:
    report = run_story("camera", tmp_path, seconds=280)
    assert report["seconds"] < 240, "the issue's own limit"
    assert len(report["promises"]) >= 20
    dearest = max(report["bill"], key=lambda charge: charge["bytes"])
    assert dearest["way"].startswith("image, built anew") and dearest["bytes"] > 20_000_000
