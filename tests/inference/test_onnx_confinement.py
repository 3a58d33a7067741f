"""What a worker for data can do once it is taken over, by layer; the control shows that attempts would work."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from modelsync_inference import ModelRefusedError
from modelsync_inference.confinement import inheritance, reader
from modelsync_inference.processes.process_model import Limits, ProcessModel
from modelsync_inference.processes.process_runtime import Bounds, ProcessRuntime
from modelsync_inference.processes.spawner import Spawner
from modelsync_inference.runtimes.onnx_sessions import Choice
from tests.support.hostile_zygote import SECRET, VARIABLE
from tests.support.runtime_kinds import all_kinds, ask
from tests.support.tiny_models import model_bytes, scaler

MIB = 1 << 20
REFUSED = {"EPERM", "EACCES", "EROFS", "ENOENT", "ESRCH", "ENOSYS"}
CONFINED = ["all", "seccomp", "landlock"]


class World:
    """A data directory with secrets, and workers within `layers`."""

    def __init__(self, root: Path, layers: str) -> None:
        self.layers, self.root = layers, root
        self.artifact = root / "models" / "anomaly" / "1-abc"
        self.artifact.mkdir(parents=True)
        self.secret, self.cache = root / "secret", root / "inference" / "anomaly"
        self.secret.write_text(SECRET)
        (root / "models" / "other").mkdir()
        (root / "models" / "other" / "model.onnx").write_text("theirs")
        (self.artifact / "link").symlink_to(self.secret)
        self.spawner = Spawner(program="tests.support.hostile_zygote")
        bounds = Bounds(memory=256 * MIB)
        self.runtime = ProcessRuntime(Choice(cache=self.cache), 2, Limits(20, 10), self.spawner, bounds)

    def load(self, name: str, data: bytes) -> ProcessModel:
        """Give a file to a worker, with no other check before it."""
        (self.artifact / name).write_bytes(data)
        model = self.runtime.load(self.artifact / name)
        assert isinstance(model, ProcessModel)
        return model

    def attempt(self, model: ProcessModel, *attempts: Any) -> list[str]:
        """What came of each."""
        wanted = [[one] if isinstance(one, str) else list(one) for one in attempts]
        feeds = {"attempts": np.array([json.dumps(wanted).encode()], dtype=np.object_)}
        answers: list[str] = json.loads(model.run(feeds, ["answers"])["answers"][0])
        return answers


def _world(root: Path, layers: str, patch: pytest.MonkeyPatch) -> World:
    found = reader.available()
    lacks = [name for name in ("landlock", "seccomp") if layers in ("all", name) and not getattr(found, name)]
    if lacks and layers != "no":
        reason = f"CONFINEMENT IS NOT TESTED ({layers}): this machine has no {' and no '.join(lacks)}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    patch.setenv(VARIABLE, layers)
    return World(root, layers)


@pytest.fixture(scope="module", params=CONFINED)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        world = _world(tmp_path_factory.mktemp("world"), request.param, patch)
        yield world
        world.spawner.close()


@pytest.fixture
def unconfined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = _world(tmp_path, "no", monkeypatch)
    yield world
    world.spawner.close()


@pytest.fixture(scope="module")
def taken(world: World) -> Iterator[ProcessModel]:
    model = world.load("taken-over.onnx", b"any")
    model.settle()
    yield model
    model.close()


def _reads(world: World) -> list[tuple[str, str]]:
    paths = (world.secret, world.artifact / "link", world.root / "models" / "other" / "model.onnx", "/etc/hostname")
    return [("read", str(path)) for path in (*paths, "/etc/passwd", f"/proc/{os.getpid()}/environ")]


def _writes(world: World) -> list[tuple[str, ...]]:
    own = str(world.artifact / "own")
    Path(own).write_text("ours")
    world.cache.mkdir(parents=True, exist_ok=True)
    new = [("write", str(folder / "new")) for folder in (world.artifact, world.cache, world.root)]
    return [*new, ("write", own), ("truncate", own), ("remove", own)]


def test_without_confinement_the_attempts_succeed(unconfined: World) -> None:
    """Without this, the tests below could pass for the wrong reason."""
    model = unconfined.load("taken-over.onnx", b"any")  # not settled: with the patience of a probe
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as other,
    ):
        attempts: list[Any] = [
            *_reads(unconfined),
            *_writes(unconfined),
            ("variable", "MODELSYNC_TEST_SECRET"),
            ("socket", "AF_INET"),
            ("connect", server.getsockname()[1]),
            "fork",
            "program",
            "hidden_memory",
            ("memory", 1024),
            *([("memory_of", other.pid)] if os.geteuid() == 0 else []),
            ("kill", other.pid),
        ]
        answers = unconfined.attempt(model, *attempts)
        (descriptors,) = unconfined.attempt(model, "descriptors")
    assert all(answer.startswith("done") for answer in answers), answers
    assert int(descriptors.removeprefix("done: ")) > 3
    assert model.layers == ()


def test_a_taken_over_worker_reads_nothing_but_its_artifact_and_its_libraries(
    world: World, taken: ProcessModel
) -> None:
    answers = world.attempt(taken, *_reads(world), ("memory_of", os.getpid()))
    assert set(answers) <= REFUSED, answers
    (own,) = world.attempt(taken, ("read", str(world.artifact / "taken-over.onnx")))
    assert own == ("EPERM" if world.layers == "seccomp" else "done: any")


def test_a_taken_over_worker_writes_nowhere(world: World, taken: ProcessModel) -> None:
    answers = world.attempt(taken, *_writes(world))
    assert set(answers) <= REFUSED | {"EPERM"}, answers


def test_a_taken_over_worker_finds_no_environment_and_no_descriptors(world: World, taken: ProcessModel) -> None:
    assert world.attempt(taken, ("variable", "MODELSYNC_TEST_SECRET"), "descriptors") == ["KeyError", "done: 3"]


def test_a_taken_over_worker_has_no_network_no_processes_and_no_signals(world: World, taken: ProcessModel) -> None:
    if world.layers == "landlock":
        pytest.skip("without seccomp this is not promised; the server says so at its start")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        pids = (os.getpid(), other.pid)
        answers = world.attempt(
            taken,
            *(("socket", family) for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK")),
            ("connect_through_libc", 0),
            "io_uring",
            "fork",
            "program",
            "exec",
            "signal_everybody",
            *((name, pid) for pid in pids for name in ("kill", "ptrace", "read_memory_of", "slow_down")),
            "unshare",
            "mount",
            "hidden_memory",
            ("chmod", str(world.artifact / "taken-over.onnx")),
        )
        assert set(answers) <= REFUSED, answers
        assert other.poll() is None
        other.kill()
    assert world.attempt(taken, "threads") == ["RuntimeError"]


def test_a_taken_over_worker_has_no_memory_without_end(world: World, taken: ProcessModel) -> None:
    assert world.attempt(taken, ("memory", 1024), ("memory", 64)) == ["MemoryError", f"done: {64 * MIB}"]


@pytest.mark.parametrize(
    "suffix", [".gguf", *(pytest.param(suffix, marks=pytest.mark.long) for suffix in (".tflite", ".xml"))]
)
def test_whatever_runs_its_file_a_taken_over_worker_gets_no_further(world: World, suffix: str) -> None:
    """Its runtime is imported and set up in the process before that is confined; here stands what it becomes."""
    if world.layers == "landlock" and suffix == ".gguf":
        with pytest.raises(ModelRefusedError, match="opens a port unless its process is kept from that"):
            world.load(f"taken-over{suffix}", b"any")
        return
    model = world.load(f"taken-over{suffix}", b"any")
    model.settle()
    # Without Landlock llama.cpp and OpenVINO still have to open their files themselves.
    reads = [] if world.layers == "seccomp" and suffix != ".tflite" else _reads(world)
    answers = world.attempt(model, *reads, *_writes(world), ("memory_of", os.getpid()))
    if world.layers != "landlock":
        with socket.create_server(("127.0.0.1", 0)) as server:
            connect = ("connect", server.getsockname()[1])
            answers += world.attempt(model, connect, "io_uring", "fork", "program", "exec", "hidden_memory", "unshare")
    assert set(answers) <= REFUSED, answers
    assert world.attempt(model, ("variable", "MODELSYNC_TEST_SECRET")) == ["KeyError"]
    assert world.attempt(model, ("memory", 1024), ("memory", 64)) == ["MemoryError", f"done: {64 * MIB}"]
    model.close()


@pytest.mark.parametrize(
    "name", ["tflite in a process", "gguf in a process", pytest.param("openvino in a process", marks=pytest.mark.long)]
)
def test_every_runtime_serves_within_every_layer(world: World, name: str) -> None:
    kind = all_kinds()[name]
    if world.layers == "landlock" and kind.file.endswith(".gguf"):
        pytest.skip("it is refused there, as the test above shows")
    folder = world.artifact / kind.file.replace(".", "-")
    folder.mkdir()
    model = world.runtime.load(kind.write(folder, 3))
    assert isinstance(model, ProcessModel)
    assert ask(kind, model, 5) == 15
    model.settle()
    assert [ask(kind, model, n) for n in range(10)] == [3 * n for n in range(10)]
    assert {layer.split()[0] for layer in model.layers} >= ({"rlimits"} if world.layers == "all" else {world.layers})
    model.close()


def pointing_out(location: str) -> bytes:
    """A model that answers with the first bytes of the file at `location`."""
    tensor = TensorProto(name="stolen", data_type=TensorProto.UINT8, dims=[len(SECRET)])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(len(SECRET)))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, [len(SECRET)])
    return model_bytes([helper.make_node("Identity", ["stolen"], ["y"])], [x], [y], [tensor])


LOCATIONS = ["../../../secret", "link"]


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_model_that_points_out_of_its_artifact_gets_nothing(world: World, location: str) -> None:
    with pytest.raises(ModelRefusedError) as refused:
        world.load("pointing.onnx", pointing_out(location))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("location", LOCATIONS)
def test_without_confinement_a_model_that_points_out_of_its_artifact_answers_with_the_file(
    unconfined: World, location: str
) -> None:
    try:
        model = unconfined.load("pointing.onnx", pointing_out(location))
    except ModelRefusedError as error:
        pytest.skip(f"this ONNX Runtime refuses it by itself: {error}")
    answer = model.run({"x": np.zeros(1, dtype=np.float32)}, ["y"])["y"]
    assert bytes(answer) == SECRET.encode()


def test_a_good_model_serves_within_every_layer_and_says_which(world: World) -> None:
    model = world.load("model.onnx", scaler(3))
    model.settle()
    answer = model.run({"X": np.ones((1, 3), dtype=np.float32)}, ["y"])["y"]
    assert answer.tolist() == [[3.0, 3.0, 3.0]]
    names = {layer.split()[0] for layer in model.layers}
    assert names >= {"all": {"landlock", "seccomp", "rlimits"}}.get(world.layers, {world.layers, "rlimits"})
    model.close()


def test_the_environment_goes_from_the_process_as_the_kernel_shows_it_too() -> None:
    program = (
        "import os, sys; from modelsync_inference.confinement.inheritance import forget_environment\n"
        "assert b'hush' in open('/proc/self/environ', 'rb').read()\n"
        "forget_environment()\n"
        "assert b'hush' not in open('/proc/self/environ', 'rb').read()\n"
        "assert 'CONNECTION' not in os.environ and os.environ['LANG'] == 'C'\n"
    )
    environment = {**os.environ, "CONNECTION": "hush", "LANG": "C"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert inheritance.harmless([("EdgeHubConnectionString", "x"), ("IOTEDGE_AUTH", "x")]) == {}


@pytest.mark.parametrize("lacking", ["landlock", "seccomp"])
def test_where_a_layer_is_demanded_and_missing_nothing_is_loaded(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = _world(tmp_path, "seccomp" if lacking == "landlock" else "landlock", monkeypatch)
    runtime = ProcessRuntime(Choice(), 2, Limits(20, 10), world.spawner, Bounds(require=True))
    (world.artifact / "model.onnx").write_bytes(scaler(3))
    wanted = "no Landlock" if lacking == "landlock" else "libseccomp is missing"
    with pytest.raises(ModelRefusedError, match=wanted):
        runtime.load(world.artifact / "model.onnx")
    world.spawner.close()
