"""A real environment, scikit-learn with NumPy and SciPy, and one package bumped: bytes, processor seconds, memory.

`python -m examples.environment.real OUT [--peers]` asks the index of pip for the wheels of real-lock-1.txt and
real-lock-2.txt (Python 3.11; OUT/wheels keeps them), makes both environments, the second twice, publishes them, lets a
device fetch one after the other over HTTP, and fits a model in what is `current` there. OUT/real.json has the figures.
It takes minutes. `--peers`: what all wheels, the bumped one and `zstd -19 --long=31 --patch-from` of archives cost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelsync_server.publish.artifact import snapshot

_HERE = Path(__file__).parent
_NAME = "environment"
_BIN = Path(sys.executable).parent
_FIT = """
import hashlib, sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
x, y = load_digits(return_X_y=True)
model = LogisticRegression(max_iter=200).fit(x[:1000] / 16, y[:1000])
print(sklearn.__version__, round(model.score(x[1000:] / 16, y[1000:]), 4), model.coef_.sum().hex())
"""

Figures = dict[str, Any]


def used(*command: str | Path) -> tuple[str, Figures]:
    """Run a command to its end: what it printed, processor seconds and the largest resident MiB of its processes."""
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"`{' '.join(map(str, command))}` ended with {process.returncode}.")
    return said, {"cpu_s": round(usage.ru_utime + usage.ru_stime, 1), "peak_mib": usage.ru_maxrss // 1024}


def ours(command: str, *arguments: str | Path) -> tuple[Any, Figures]:
    """One of our commands, answered in JSON."""
    said, figures = used(_BIN / command, *arguments, "--json")
    return json.loads(said), figures


@contextmanager
def origin(store: Path) -> Iterator[str]:
    """The URL of a store that is served meanwhile."""
    with subprocess.Popen([_BIN / "modelsync", "serve", store], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def same_twice(one: Path, other: Path) -> bool:
    """Whether two folders are one artifact."""
    with snapshot(one) as first, snapshot(other) as second:
        return bool(first.manifest.digest == second.manifest.digest)


def peers(out: Path, wheels: Path, bumped: str) -> Figures:
    """What the same bump costs in other ways, bytes of files alone."""
    found: Figures = {"all wheels": sum(path.stat().st_size for path in wheels.glob("*.whl") if path.name != bumped)}
    names = {path.name for path in wheels.glob("*.whl")}
    found["the bumped wheel"] = max((wheels / name).stat().st_size for name in names if name.startswith(bumped))
    archives = []
    for number in (1, 2):
        archives.append(out / f"{number}.tar")
        with tarfile.open(archives[-1], "w") as packed:
            packed.add(out / f"environment-{number}", ".")
    program = shutil.which("zstd")
    if program is not None:
        patch = out / "patch.zst"
        _, figures = used(
            program, "-q", "-19", "--long=31", f"--patch-from={archives[0]}", archives[1], "-f", "-o", patch
        )
        found["zstd -19 --long=31 --patch-from"] = {"bytes": patch.stat().st_size, **figures}
    return found


def measured(out: Path, locks: tuple[Path, Path]) -> Iterator[tuple[str, Figures]]:
    """Yield what was measured, step by step."""
    wheels, store, data = out / "wheels", out / "store", out / "device"
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:")
    for lock in locks:
        used(sys.executable, "-m", "pip", "download", *quiet, "--dest", wheels, "-r", lock)
    options = ("--wheels", wheels, "--exclude", "*/tests/*", "--import", "sklearn")
    for number, lock in enumerate(locks, 1):
        made, figures = ours("modelsync", "environment", lock, out / f"environment-{number}", *options)
        yield f"make environment {number}", {"files": made["files"], "bytes": made["bytes"], **figures}
    old = os.umask(0o077)
    ours("modelsync", "environment", locks[1], out / "again", *options)
    os.umask(old)
    yield "made again elsewhere", {"same": same_twice(out / "environment-2", out / "again")}
    trust = ours("modelsync", "init", store, "--keys", out / "keys")[0]["trust"]
    with origin(store) as url:
        for number in (1, 2):
            environment = out / f"environment-{number}"
            quietly = ("--keys", out / "keys", "--progress", "none")
            release, figures = ours("modelsync", "publish", store, _NAME, environment, *quietly)
            sizes = {"install_bytes": release["install_bytes"], "updates": release["updates"]}
            yield f"publish {number}", {**sizes, **figures}
            pulled, figures = ours("modelsyncd", "pull", _NAME, "--origin", url, "--data", data, "--trust", trust)
            yield f"pull {number}", {**pulled, **figures}
            current = data / "models" / _NAME / "current"
            here, there = (used(folder / "bin" / "python", "-c", _FIT)[0].strip() for folder in (environment, current))
            check = used(current / "bin" / "check-environment")[0].strip()
            yield f"run {number}", {"cloud": here, "device": there, "same": here == there, "check": check}
        begun = ours("modelsyncd", "rollback", _NAME, "--data", data)[0]
        yield "rollback", begun if isinstance(begun, dict) else {"said": begun}


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m examples.environment.real", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--locks", type=Path, nargs=2, default=(_HERE / "real-lock-1.txt", _HERE / "real-lock-2.txt"))
    parser.add_argument("--peers", action="store_true", help="compare with other ways too")
    arguments = parser.parse_args()
    out: Path = arguments.out.absolute()
    if (out / "store").exists():
        parser.error(f"{out} has been used already: give a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(out / "cache")  # so that nothing is known from an earlier run
    report: Figures = {}
    for step, figures in measured(out, tuple(path.absolute() for path in arguments.locks)):
        report[step] = figures
        print(f"{step}: {json.dumps(figures)}", flush=True)
        (out / "real.json").write_text(json.dumps(report, indent=1) + "\n")
    if arguments.peers:
        report["other ways"] = peers(out, out / "wheels", "scikit_learn")
        print(json.dumps(report["other ways"]))
        (out / "real.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(figures.get("same", True) for figures in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
