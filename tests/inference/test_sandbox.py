"""What code in a model tries, and what comes of it: every test here fails without the layer that it is about."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelsync_inference import LoadedModel, ModelRefusedError, WorkerDiedError
from modelsync_inference.confinement import bubblewrap, landlock, syscall_filter
from modelsync_inference.confinement.confine import LANDLOCK_NEEDED
from modelsync_inference.processes import sandbox
from modelsync_inference.processes.code_runtime import CodeRuntime
from modelsync_inference.processes.process_model import Limits, ProcessModel
from modelsync_inference.processes.sandbox import Allowance
from modelsync_inference.runtimes.port import check_inputs
from tests.support.hostile_code import ATTEMPTS, attempting_script, pickle_of, script
from tests.support.waiting import wait_until

MIB = 1 << 20
SECRET = "the-secret-of-the-parent"
LAYERS = {
    "all": Allowance(memory=256 * MIB, scratch=8 * MIB),
    "without bubblewrap": Allowance(memory=256 * MIB, scratch=8 * MIB, bubblewrap=False),
    "without landlock": Allowance(memory=256 * MIB, scratch=8 * MIB, landlock=False),
}


def _unavailable(layers: str) -> str | None:
    """What is missing on this machine for `layers`."""
    if syscall_filter.library() is None:
        return "libseccomp or pyseccomp"
    if layers != "without bubblewrap" and bubblewrap.command([], Path("/"), MIB) is None:
        return "bubblewrap that works"
    if layers != "without landlock" and landlock.version() < LANDLOCK_NEEDED:
        return f"Landlock {LANDLOCK_NEEDED}"
    return None


def _need(layers: str) -> None:
    missing = _unavailable(layers)
    if missing is not None and os.environ.get("CI"):
        pytest.fail(f"THE SANDBOX IS NOT TESTED ({layers}): this machine has no {missing}")
    if missing is not None:
        pytest.skip(f"THE SANDBOX IS NOT TESTED ({layers}): this machine has no {missing}")


class World:
    """A confined script, and what lies around it."""

    def __init__(self, root: Path, layers: str) -> None:
        self.data = root / "data"
        self.artifact = self.data / "models" / "anomaly" / "1-abc"
        self.artifact.mkdir(parents=True)
        self.file = self.artifact / "weights.bin"
        self.file.write_bytes(b"weights")
        self.config = self.data / "modelsyncd.toml"
        self.config.write_text(f'connection_string = "{SECRET}"')
        self.config.chmod(0o600)
        self.runtime = CodeRuntime("anomaly", limits=Limits(20, 10), allowance=LAYERS[layers])
        self.layers = layers
        self.model: LoadedModel = self.runtime.load(attempting_script(self.artifact))

    @property
    def wrapped(self) -> bool:
        """Whether bubblewrap is among the layers."""
        return self.layers != "without bubblewrap"

    def attempt(self, *attempts: Any) -> list[str]:
        """What came of each, an attempt's name or a list of its name and arguments."""
        wanted = [[one] if isinstance(one, str) else list(one) for one in attempts]
        feeds = check_inputs(self.model.inputs, {"raw_data": [json.dumps(wanted)]})
        answers: list[str] = json.loads(self.model.run(feeds, ["result"])["result"][0])
        return answers


@pytest.fixture(scope="module", params=list(LAYERS))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    _need(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELSYNC_TEST_SECRET", SECRET)
        with tempfile.TemporaryDirectory(dir="/var/tmp") as root:  # not /tmp, of which it has one of its own
            world = World(Path(root), request.param)
            yield world
            world.model.close()
            world.runtime.close()


REFUSED = {"EPERM", "EACCES", "EROFS", "ENOENT", "ESRCH"}


def test_the_attempts_succeed_where_nothing_confines_them(tmp_path: Path) -> None:
    """Without this, the tests below could pass for the wrong reason."""
    (tmp_path / "config").write_text(SECRET)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as other,
    ):
        attempts = [
            ["socket", "AF_INET"],
            ["connect", server.getsockname()[1]],
            ["connect_through_libc", 0],
            ["write", str(tmp_path / "new")],
            ["chmod", str(tmp_path / "new")],
            ["read", str(tmp_path / "config")],
            ["variable", "MODELSYNC_TEST_SECRET"],
            ["variable_of_parent", SECRET],
            ["fork"],
            ["program"],
            ["slow_down", other.pid],
            ["hidden_memory"],
            ["memory", 1024],
            *([["ptrace", other.pid]] if os.geteuid() == 0 else []),  # others may not, on many systems
            ["kill", other.pid],
        ]
        code = f"{ATTEMPTS}\nprint(json.dumps([attempt(*one) for one in json.loads(sys.argv[1])]))"
        shell = ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", code, json.dumps(attempts)]
        done = subprocess.run(
            shell, capture_output=True, check=True, env={**os.environ, "MODELSYNC_TEST_SECRET": SECRET}
        )
        answers = dict(zip((one[0] for one in attempts), json.loads(done.stdout), strict=True))
        assert {name: answer for name, answer in answers.items() if not answer.startswith("done")} == {}


def test_there_is_no_network(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as named:
        named.bind(str(world.data / "daemon.sock"))
        port = server.getsockname()[1]
        answers = world.attempt(
            *(("socket", family) for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET")),
            ("connect", port),
            ("connect_through_libc", port),
            "io_uring",
            ("datagrams_to_a_path", str(world.data / "daemon.sock")),
        )
        assert answers == ["EPERM"] * len(answers)


def test_nothing_can_be_written_but_a_small_scratch_folder(world: World) -> None:
    targets = [world.file, world.artifact / "score.py", world.config, world.data / "models" / "new", Path("/new")]
    targets += [Path("/dev/shm/new"), Path("/var/tmp/new"), Path.home() / "new", Path(sys.prefix) / "new"]
    names = ("write", "make", "truncate", "truncate_by_reading", "chmod", "touch", "remove")
    attempts: list[tuple[str, ...]] = [(name, str(target)) for target in targets for name in names]
    attempts += [(name, str(world.file), str(world.artifact / "new")) for name in ("link", "symlink")]
    answers = dict(zip(attempts, world.attempt(*attempts), strict=True))
    assert {attempt: answer for attempt, answer in answers.items() if answer not in REFUSED} == {}
    assert world.file.read_bytes() == b"weights"
    (scratch,) = world.attempt(("scratch", 2))
    assert scratch == ("done: 2" if world.wrapped else "EACCES")
    assert not Path("/tmp/scratch-0").exists()
    (too_much,) = world.attempt(("scratch", 20))
    assert too_much == ("ENOSPC" if world.wrapped else "EACCES")


def test_secrets_stay_out_of_sight(world: World) -> None:
    parent = os.getpid()
    answers = world.attempt(
        ("variable", "MODELSYNC_TEST_SECRET"),
        ("variable_of_parent", SECRET),
        ("read", f"/proc/{parent}/environ"),
        ("memory_of", parent),
        ("read", str(world.config)),
        ("read", str(world.data / "daemon.sock")),
        ("read", "/etc/passwd"),
        ("read", "/etc/hostname"),
    )
    assert answers[0] == "KeyError"
    assert set(answers[1:]) <= REFUSED, answers
    (names,) = world.attempt(("list", str(world.data)))
    # Landlock lists nothing; bubblewrap's world has the way to the artifact, and nothing beside it.
    assert names == ("done: ['models']" if world.layers == "without landlock" else "EACCES")
    (descriptors,) = world.attempt("descriptors")
    assert descriptors == "done: 2"  # its two channels: nothing of the parent's, nothing of other models'


def test_no_processes_are_started_and_those_of_others_are_left_alone(world: World) -> None:
    parent = os.getpid()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        answers = world.attempt(
            "fork",
            "program",
            "exec",
            "signal_everybody",
            *((name, pid) for pid in (parent, other.pid) for name in ("kill", "ptrace", "read_memory_of", "slow_down")),
            "unshare",
            "mount",
            "raise_limit",
        )
        assert answers.pop() == "ValueError"  # as Python has it
        assert set(answers) <= REFUSED, answers
        assert other.poll() is None
        other.kill()


def test_memory_ends_at_the_limit_and_the_model_serves_on(world: World) -> None:
    answers = world.attempt(("memory", 2048), ("shared_memory", 2048), "hidden_memory", ("memory", 64))
    assert answers == ["MemoryError", "ENOMEM", "EPERM", f"done: {64 * MIB}"]


def test_a_bomb_of_threads_ends_at_the_limit(world: World) -> None:
    (answer,) = world.attempt("threads")
    assert answer in {"RuntimeError", "MemoryError"}


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., LoadedModel]]:
    """Loads a file of the given bytes with all layers, which have to be there."""
    _need("all")
    runtimes: list[CodeRuntime] = []

    def do(name: str, data: bytes, allowance: Allowance | None = None, seconds: float = 60) -> LoadedModel:
        (tmp_path / name).write_bytes(data)
        (tmp_path / "estimator.py").write_text(
            "class Scaler:\n    n_features_in_ = 1\n"
            "    def __init__(self, f): pass\n    def predict(self, X): return X\n"
        )
        runtimes.append(CodeRuntime("anomaly", limits=Limits(seconds), allowance=allowance or LAYERS["all"]))
        return runtimes[-1].load(tmp_path / name)

    yield do
    for runtime in runtimes:
        runtime.close()


def test_code_in_a_pickle_is_confined_too(load: Callable[..., LoadedModel]) -> None:
    target = Path("/var/tmp/written-by-a-pickle")
    model = load("model.pkl", pickle_of("open('/tmp/ours', 'w').write('x'); import estimator"))
    model.close()
    with pytest.raises(ModelRefusedError, match=r"model\.pkl can't be unpickled: (OSError|PermissionError|FileN)"):
        load("model.pkl", pickle_of(f"open({str(target)!r}, 'w')"))
    assert not target.exists()
    with pytest.raises(ModelRefusedError, match=r"PermissionError.*not permitted"):
        load("model.pkl", pickle_of("import socket; socket.socket()"))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (script("ctypes.string_at(0)"), "the process that loaded it was killed by SIGSEGV"),
        (script("os.kill(os.getpid(), 9)"), "the process that loaded it was killed by SIGKILL"),
        (script("os._exit(7)", "import"), "the process that loaded it ended with exit code 7"),
        (script("time.sleep(1000)"), "loading it did not end within 3 s; its process was ended"),
        (script("x = bytearray(1 << 31)"), r"init\(\) of score.py raised MemoryError"),
        (script("raise RuntimeError('no model here')"), r"init\(\) of score.py raised RuntimeError: no model here"),
        (script("import nonesuch", "import"), "score.py can't be imported: ModuleNotFoundError: No module named"),
        (b"def init():\n    pass\n", r"score.py has no function run\(\)"),
        (b"def init(): pass\ndef run(a, b): pass\n", "must have one parameter"),
    ],
)
def test_a_script_that_does_not_load_is_refused_and_says_what_happened(
    load: Callable[..., LoadedModel], file: bytes, reason: str
) -> None:
    with pytest.raises(ModelRefusedError, match=reason):
        load("score.py", file, seconds=3 if "within 3 s" in reason else 60)


def test_what_burns_the_processor_unasked_is_ended_and_told(
    load: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_BACKGROUND_SHARE", 0.0)  # on a machine of others it may get no more than that
    burn = "threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()"
    model = load("score.py", script(burn), Allowance(idle_seconds=0.5))
    assert isinstance(model, ProcessModel)
    model.settle()
    # It has to get the processor for twice as long as its loading took: on a machine of others that is a while.
    wait_until(lambda: not Path(f"/proc/{model.pid}").exists(), "the end of the process", 240)
    with pytest.raises(WorkerDiedError, match=r"used .* s of processor time, and was asked for"):
        model.run(check_inputs(model.inputs, {"raw_data": ["1"]}), ["result"])


@pytest.mark.parametrize("missing", ["seccomp", "files"])
def test_without_a_layer_that_has_to_be_there_the_model_is_refused_and_told_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowance = Allowance()
    if missing == "files":
        allowance = Allowance(bubblewrap=False, landlock=False)
        wanted = "apt install bubblewrap"
    else:
        hidden = tmp_path / "hidden"
        hidden.mkdir()
        for name in ("seccomp", "pyseccomp"):
            (hidden / f"{name}.py").write_text("raise ImportError('hidden by a test')")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")]))
        wanted = "apt install python3-seccomp"
    runtime = CodeRuntime("anomaly", allowance=allowance)
    (tmp_path / "score.py").write_bytes(script("pass"))
    with pytest.raises(ModelRefusedError, match=wanted):
        runtime.load(tmp_path / "score.py")
    runtime.close()
