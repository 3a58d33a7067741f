"""The promises that the images of one architecture are held to, in the order in which they are checked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modelsync_protocol.native import library
from tests.images import figures, images
from tests.images.containers import ID, VOLUME, Container, run, volume
from tests.images.site import EXAMPLES, MODULE, ROOT, Site
from tests.images.system import ARCHITECTURES, Architecture
from tests.support.debian_root import RootMissing

Check = Callable[[], str | None]

_PORT = 8000
_SBOM = "/usr/share/sbom/modelsync.cdx.json"
_NOISE = "Schema error"
# As tests/arm/run: an Armv7 processor, on which instructions of Armv8 end in SIGILL.
_PROCESSOR = {"armhf": {"QEMU_CPU": "cortex-a7"}}


def of(device: Device) -> Iterator[tuple[str, Check]]:
    """Each promise with its check."""
    yield "sizes are within their budgets", device.sizes
    yield "each image says what it is, and is not run by root", device.labels
    yield "the bill of materials lists what is installed", device.bill
    yield "our packages find what they require", device.requirements
    yield "all golden vectors decode bit by bit", device.vectors
    yield "the compiled core is in the image, which works without it", device.core
    yield "the image starts as an IoT Edge module, follows its twin and fetches", device.follows
    yield "ONNX Runtime serves the model over HTTP", device.serves
    yield "the twin swaps the model under a running server", device.swaps
    yield "health checks tell the truth", device.health
    yield "what a container logs stays short", device.logs
    yield "both stop at once when told to", device.stops
    yield "a pickle of the image's own scikit-learn is served", device.pickle
    yield "an image labelled for another architecture is not built", device.mislabelled
    yield "a host that hides its clock is explained", device.clock
    yield "a missing /sys is explained", device.no_sys


class Device:
    """A device of one architecture, its volume, and what runs on it. `folder` is empty and lasts as long as it does."""

    def __init__(self, architecture: Architecture, folder: Path) -> None:
        self._architecture, self._folder = architecture, folder
        self._data = volume(folder / "volume")
        self._environment = _PROCESSOR.get(architecture.debian, {})
        self._site: Site | None = None
        self._containers: list[Container] = []

    def sizes(self) -> str:
        """Written to tests/footprint/figures as well."""
        measured = {target: images.sizes(self._image(target)) for target in images.TARGETS}
        figures.write(self._architecture, measured)
        figures.check(measured)
        return ", ".join(f"{target} {size.compressed / 1e6:.1f} MB" for target, size in measured.items())

    def labels(self) -> None:
        """Architecture, user, volume, entry point, health check, labels."""
        _, kind, *_ = self._architecture.platform.split("/")
        for target in images.TARGETS:
            said = images.inspect(self._image(target))
            assert said["Architecture"] == kind
            config = said["Config"]
            assert config["User"] == f"{ID}:{ID}"
            assert list(config["Volumes"]) == [VOLUME]
            assert config["Entrypoint"] == ["modelsync-start"] and config["Cmd"][0] in ("modelsyncd", "modelsync-infer")
            assert said["Healthcheck"]["Test"][0] == "CMD"
            for label in ("title", "version", "revision", "licenses", "description"):
                assert config["Labels"][f"org.opencontainers.image.{label}"]
            assert config["Labels"]["io.modelsync.sbom"] == _SBOM
            done = self._run(
                target, "sh", "-c", "id -u; touch /usr/x /etc/x /tmp/x 2>&1; touch x && rm x && echo writable"
            )
            lines = done.stdout.splitlines()
            assert lines[0] == str(ID) and lines[-1] == "writable", done
            assert sum("Read-only file system" in line for line in lines) == 3, done.stdout

    def bill(self) -> str:
        """CycloneDX of each image against dpkg's status file and Python's own view."""
        program = (
            "import importlib.metadata, json, pathlib, re\n"
            "status = pathlib.Path('/var/lib/dpkg/status').read_text()\n"
            "local = [p for p in __import__('sys').path if p.startswith('/usr/local')]\n"
            "found = importlib.metadata.distributions(path=local)\n"
            f"bill = json.loads(pathlib.Path('{_SBOM}').read_text())\n"
            "print(json.dumps([re.findall('^Package: (.*)$', status, re.M), [d.name for d in found], bill]))\n"
        )
        counts = []
        for target in images.TARGETS:
            debian, python, bill = json.loads(self._run(target, "python3", "-c", program).stdout)
            assert bill["bomFormat"] == "CycloneDX" and bill["specVersion"] == "1.6"
            listed = {kind: _components(bill, kind) for kind in ("deb", "pypi")}
            assert listed["deb"] == set(debian) and {"libc6", "python3-cryptography"} <= listed["deb"]
            assert listed["pypi"] == set(python) and "tuf" in listed["pypi"]
            counts.append(f"{target} {len(debian)} + {len(python)}")
        return ", ".join(counts)

    def requirements(self) -> None:
        """What pip would check, Debian's packages included; nothing that is for another Python or extra."""
        program = (
            "import importlib.metadata as m, sys\n"
            "from packaging.requirements import Requirement\n"
            "for name in sys.argv[1:]:\n"
            "    for text in m.requires(name) or ():\n"
            "        need = Requirement(text)\n"
            "        if need.marker is None or need.marker.evaluate({'extra': ''}):\n"
            "            found = m.version(need.name)\n"
            "            assert need.specifier.contains(found, prereleases=True), (name, text, found)\n"
        )
        ours = ("modelsync-protocol", "modelsync-daemon", "tuf", "azure-iot-device")
        _good(self._run("daemon", "python3", "-c", program, *ours))
        _good(self._run("inference", "python3", "-c", program, *ours, "modelsync-inference"))

    def vectors(self) -> str:
        """tests/arm/decode_vectors.py, with the image's protocol package; on other processors without its Arm part.

        With the core, and in NumPy.
        """
        tests = self._folder / "tests"
        shutil.copytree(ROOT / "tests" / "arm", tests / "arm")
        shutil.copytree(ROOT / "tests" / "protocol" / "golden", tests / "protocol" / "golden")
        release = self._folder / "release"
        release.mkdir()
        subprocess.run([sys.executable, ROOT / "tests" / "arm" / "make_release.py", release], check=True)
        options = [] if self._architecture.debian == "armhf" else ["--any-machine"]
        program = ("/mnt/tests/arm/decode_vectors.py", "/mnt/release", *options)
        mounts = {tests: "/mnt/tests", release: "/mnt/release"}
        sums = []
        for core in ({}, {library.VARIABLE: library.OFF}):
            environment = {"PYTHONPATH": "/mnt", **core}
            done = self._run("daemon", "python3", *program, mounts=mounts, environment=environment)
            _good(done)
            sums.append(done.stdout.splitlines()[-1])
        return "; in NumPy ".join(sums)

    def core(self) -> None:
        """What doctors say."""
        program = "from modelsync_protocol.native import library; print(*library.which())"
        with_it = self._run("daemon", "python3", "-c", program)
        assert with_it.stdout.startswith("True the compiled core decodes"), with_it
        without = self._run("daemon", "python3", "-c", program, environment={library.VARIABLE: library.OFF})
        assert without.stdout.startswith("True NumPy decodes"), without

    def follows(self) -> str:
        """The daemon as IoT Edge starts it: its environment, its workload socket, the image's own command."""
        self._site = site = Site(self._folder)
        shutil.copy(site.trust, self._data / "root.json")
        for version in (1, 2):
            site.publish("anomaly", EXAMPLES / f"v{version}" / "model.onnx", EXAMPLES / f"v{version}" / "probe.json")
        settings = {**site.environment, "MODELSYNC_TRUST": f"{VOLUME}/root.json", "MODELSYNC_PROBATION_SECONDS": "5"}
        daemon = self._start("modelsyncd", "daemon", mounts={site.edge: str(site.edge)}, environment=settings)
        daemon.until(daemon.healthy, "it answers")
        site.wish(anomaly=1)
        daemon.until(lambda: site.reported("anomaly").get("state") == "active", "version 1 is active")
        assert site.reported("anomaly")["version"] == 1
        held = self._data / "data" / "models" / "anomaly" / "current" / "model.onnx"
        assert held.read_bytes() == (EXAMPLES / "v1" / "model.onnx").read_bytes()
        assert held.stat().st_uid == ID
        return f"module {MODULE}, {site.reported('anomaly')['bytes']} bytes"

    def serves(self) -> str:
        """One request of the probe's first case, against what the probe recorded."""
        line = (
            "modelsync-infer",
            "--data",
            f"{VOLUME}/data",
            "--model",
            "anomaly",
            "--host",
            "0.0.0.0",
            "--port",
            str(_PORT),
        )
        server = self._start("modelsync-infer", "inference", *line)
        server.until(lambda: _ready("anomaly"), "it is ready")
        _, answer = self._ask_recorded(1)
        assert answer["model_version"] == "1"
        version = server.execute("python3", "-c", "import onnxruntime; print(onnxruntime.__version__)").stdout.strip()
        assert version.startswith("1.21"), version
        return f"ONNX Runtime {version}"

    def swaps(self) -> str:
        """Requests go on all the while; none fails, and the process stays the same."""
        assert self._site is not None
        site, server = self._site, self._containers[1]
        site.wish(anomaly=2)
        versions: list[str] = []

        def swapped() -> bool:
            status, answer = _infer("anomaly", self._case(1)["inputs"])
            assert status == 200, answer
            versions.append(answer["model_version"])
            return versions[-1] == "2"

        server.until(swapped, "version 2 answers")
        self._ask_recorded(2)
        assert versions == sorted(versions)
        server.until(lambda: site.reported("anomaly").get("state") == "active", "the swap is reported")
        assert site.reported("anomaly")["version"] == 2
        assert server.log.count('"url"') == 1, "it was started once"
        return f"{len(versions)} requests in the meantime, none failed"

    def health(self) -> None:
        """Good while they work; bad for a model that is not there, and for a daemon that has stopped."""
        daemon, server = self._containers
        assert daemon.healthy() and server.healthy()
        stopped = self._run("daemon", "modelsyncd", "status", "--data", f"{VOLUME}/none", "--running")
        assert stopped.returncode == 2, stopped
        other = self._folder / "other"
        shutil.copytree(self._data / "data", other, ignore=shutil.ignore_patterns("daemon.sock", "lock"))
        subprocess.run(["chown", "-R", f"{ID}:{ID}", other], check=True)
        alone = self._run("daemon", "modelsyncd", "status", "--data", "/mnt", "--running", mounts={other: "/mnt"})
        assert alone.returncode == 4 and "no modelsyncd listens" in alone.stderr, alone

    def logs(self) -> str:
        """Hundreds of harmless lines of ONNX Runtime would fill an SD card's log and hide what matters."""
        counts = {}
        for container in self._containers:
            lines = container.log.splitlines()
            assert not [line for line in lines if line.startswith(_NOISE)], lines[:3]
            assert len(lines) < 60, "\n".join(lines)
            counts[container.name] = len(lines)
        return ", ".join(f"{name} {count} lines" for name, count in counts.items())

    def stops(self) -> None:
        """SIGTERM is enough for what runs as the first process of a container."""
        for container in self._containers:
            assert container.stop() == 0, container.name
        self._containers.clear()

    def pickle(self) -> str:
        """Confined as on a device where the kernel's means are there; an emulator has none, and must not do without."""
        assert self._site is not None
        made = volume(self._folder / "pickle")
        mounts = {ROOT / "tests" / "images": "/mnt/images", ROOT / "examples": "/mnt/examples"}
        self._pickled("make", made, mounts)
        self._site.publish("pickled", made / "model.pkl", made / "probe.json")
        environment = {"MODELSYNC_TRUST": f"{VOLUME}/root.json", **self._site.environment}
        daemon = self._start(
            "modelsyncd", "daemon", mounts={self._site.edge: str(self._site.edge)}, environment=environment
        )
        self._site.wish(pickled=1)
        daemon.until(lambda: self._site and self._site.reported("pickled").get("state"), "the pickle arrives")
        line = ["modelsync-infer", "--data", f"{VOLUME}/data", "--model", "pickled", "--allow-code", "pickled"]
        server = self._start("modelsync-infer", "inference-sklearn", *line, "--host", "0.0.0.0", "--port", str(_PORT))
        size = f"{(made / 'model.pkl').stat().st_size} bytes"
        if self._architecture.emulated:
            server.until(lambda: "can't be enforced here" in server.log, "the pickle is refused", 600)
            assert not _ready("pickled")
            self._pickled("load", made, mounts)
            return f"{size}; it answers, but only unconfined, so the server refuses it: an emulator can't confine"
        server.until(lambda: _ready("pickled"), "it is ready")
        case = json.loads((made / "probe.json").read_text())["cases"][0]
        status, answer = _infer("pickled", case["inputs"])
        assert status == 200, answer
        assert answer["outputs"][0]["data"] == case["outputs"]["predict"]["data"]
        [confined] = [item for item in server.log.splitlines() if "its code runs within" in item][:1]
        return f"{size}, within {confined.partition('runs within ')[2]}"

    def mislabelled(self) -> None:
        """The build itself finds that the base is for another architecture than the image's label."""
        other = ARCHITECTURES["amd64" if self._architecture.debian != "amd64" else "armhf"]
        try:
            images.build(self._architecture, "native-daemon", other.platform)
        except RootMissing as error:
            assert "no device could run it" in str(error), error
        else:
            raise AssertionError("it was built")

    def clock(self) -> str | None:
        """As an old libseccomp does it: every way to ask for the time is refused."""
        if self._architecture.emulated or shutil.which("cc") is None:
            return (
                "not here: it takes a C compiler for the image's architecture (tests/images/test_start.py has a part)"
            )
        source = self._folder / "noclock.c"
        source.write_text(
            "#include <errno.h>\n#include <time.h>\n"
            "int clock_gettime(clockid_t c, struct timespec *t) { errno = EPERM; return -1; }\n"
            "int gettimeofday(void *t, void *z) { errno = EPERM; return -1; }\n"
            "time_t time(time_t *t) { errno = EPERM; return -1; }\n"
        )
        library = self._folder / "noclock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        mounts, preload = {library: "/mnt/noclock.so"}, {"LD_PRELOAD": "/mnt/noclock.so"}
        done = self._run("daemon", "modelsyncd", "run", mounts=mounts, environment=preload)
        assert done.returncode == 5 and "update libseccomp2" in done.stderr, done
        assert "Traceback" not in done.stderr
        return None

    def no_sys(self) -> None:
        """ONNX Runtime would abort the process."""
        line = ("modelsync-infer", "--data", VOLUME, "--model", "anomaly")
        done = self._run("inference", *line, options=("--security-opt", "mask=/sys/devices/system/cpu"))
        assert done.returncode == 5 and "mount /sys" in done.stderr, done

    def close(self) -> None:
        """End what still runs."""
        for container in self._containers:
            container.remove()
        if self._site is not None:
            self._site.close()

    def _pickled(self, action: str, made: Path, mounts: dict[Path, str]) -> None:
        program = ("python3", "/mnt/images/pickled.py", action, VOLUME)
        done = run(
            self._image("inference-sklearn"),
            *program,
            data=made,
            mounts=mounts,
            environment={**self._environment, "PYTHONPATH": "/mnt"},
        )
        _good(done)

    def _image(self, target: str) -> str:
        return images.name(self._architecture, target)

    def _run(
        self,
        target: str,
        *command: str,
        mounts: dict[Path, str] | None = None,
        environment: dict[str, str] | None = None,
        options: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        own = volume(self._folder / "own") if not (self._folder / "own").exists() else self._folder / "own"
        environment = {**self._environment, **(environment or {})}
        return run(self._image(target), *command, data=own, mounts=mounts, environment=environment, options=options)

    def _start(
        self,
        name: str,
        target: str,
        *command: str,
        mounts: dict[Path, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Container:
        environment = {**self._environment, **(environment or {})}
        image = self._image(target)
        container = Container(name, image, *command, data=self._data, mounts=mounts or {}, environment=environment)
        self._containers.append(container)
        return container

    def _case(self, version: int) -> dict[str, Any]:
        probe = json.loads((EXAMPLES / f"v{version}" / "probe.json").read_text())
        case: dict[str, Any] = probe["cases"][0]
        return case

    def _ask_recorded(self, version: int) -> tuple[int, dict[str, Any]]:
        case = self._case(version)
        status, answer = _infer("anomaly", case["inputs"])
        assert status == 200, answer
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        assert outputs["label"] == case["outputs"]["label"]["data"]
        expected = case["outputs"]["probabilities"]["data"]
        assert all(abs(a - b) < 1e-3 for a, b in zip(outputs["probabilities"], expected, strict=True)), outputs
        return status, answer


def _components(bill: dict[str, Any], kind: str) -> set[str]:
    return {item["name"] for item in bill["components"] if item["purl"].startswith(f"pkg:{kind}/")}


def _ready(model: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/v2/models/{model}/ready", timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _infer(model: str, inputs: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"inputs": [{"name": name, **tensor} for name, tensor in inputs.items()]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{_PORT}/v2/models/{model}/infer", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def _good(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, (
        f"{done.args[-4:]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    )
