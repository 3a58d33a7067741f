"""A real environment, scikit-learn with NumPy and SciPy, and one package bumped: bytes, processor seconds, memory.

`python -m examples.environment.real OUT [--peers]` asks the index of pip for the wheels of real-lock-1.txt and
real-lock-2.txt (for Python 3.11), makes both environments, the second twice, publishes them, lets a device fetch one
after the other over HTTP, fits a model in what is `current` there, and goes back. OUT/real.json has the figures. It
takes minutes. `--locks examples/environment/pip-lock-{1,2}.txt --import pip` does so with another bump, in less than
one. `--peers`: beside it other ways, in bytes of what is fetched, and what an encoder makes of the changed files alone.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard

from modelsync_server.publish.artifact import snapshot

_HERE = Path(__file__).parent
_NAME = "environment"
_BIN = Path(sys.executable).parent
_FIT = """
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
x, y = load_digits(return_X_y=True)
model = LogisticRegression(max_iter=200).fit(x[:1000] / 16, y[:1000])
print(round(model.score(x[1000:] / 16, y[1000:]), 4), model.coef_.sum().hex())
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


def contents(folder: Path) -> dict[str, bytes]:
    """Files by path, with no release in the name of a folder of a package's own words."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {
        re.sub(r"-[^-/]+\.dist-info/", ".dist-info/", name): path.read_bytes()
        for name, path in found.items()
        if path.is_file() and not path.is_symlink()
    }


def floor(old: Path, new: Path) -> Figures:
    """All changed files in one stream, on their old ones, by zstd 22 and LZMA; no names and places in it."""
    before, after = contents(old), contents(new)
    changed = [name for name in after if after[name] != before.get(name)]
    data = b"".join(after[name] for name in changed)
    raw = b"".join(before.get(name, b"") for name in changed)
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=_window(raw + data))
    dictionary = zstandard.ZstdCompressionDict(raw, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    packed = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary).compress(data)
    return {
        "zstd": len(packed), "lzma": _lzma(raw + data) - _lzma(raw), "files": len(changed), "of_bytes": len(data),
    }  # fmt: skip


def _window(data: bytes) -> int:
    """The logarithm of a window over all of it, up to 128 MiB: encoders reserve several times as much memory."""
    return min(max(16, len(data).bit_length()), 27)


def _lzma(data: bytes) -> int:
    """Bytes that LZMA makes of it, with a window over all of it."""
    chosen = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 1 << _window(data),
        "lc": 4,
        "pb": 0,
    }
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=[chosen]))


def peers(out: Path) -> Figures:
    """What the same bump costs in other ways, bytes of files alone."""
    sizes = [{path.name: path.stat().st_size for path in (out / f"wheels-{n}").glob("*.whl")} for n in (1, 2)]
    environments = [out / f"environment-{number}" for number in (1, 2)]
    found: Figures = {
        "all wheels": sum(sizes[1].values()),
        "the bumped wheel": sum(size for name, size in sizes[1].items() if name not in sizes[0]),
        "changed files alone, on their old ones": floor(*environments),
    }
    archives = [out / "1.tar", out / "2.tar"]
    for archive, environment in zip(archives, environments, strict=True):
        with tarfile.open(archive, "w") as packed:
            packed.add(environment, ".")
    program = shutil.which("zstd")
    if program is not None:
        patch = out / "patch.zst"
        options = ("-q", "-q", "-19", "--long=31", f"--patch-from={archives[0]}")
        _, figures = used(program, *options, archives[1], "-f", "-o", patch)
        found["zstd -19 --long=31 --patch-from"] = {"bytes": patch.stat().st_size, **figures}
    return found


def measured(out: Path, locks: tuple[Path, Path], module: str) -> Iterator[tuple[str, Figures]]:
    """Yield what was measured, step by step."""
    store, data = out / "store", out / "device"
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:")
    options = ("--exclude", "*/tests/*", "--import", module)
    for number, lock in enumerate(locks, 1):
        wheels = out / f"wheels-{number}"
        used(sys.executable, "-m", "pip", "download", *quiet, "--dest", wheels, "-r", lock)
        environment = out / f"environment-{number}"
        made, figures = ours("modelsync", "environment", lock, environment, "--wheels", wheels, *options)
        yield f"make environment {number}", {"files": made["files"], "bytes": made["bytes"], **figures}
    old = os.umask(0o077)
    ours("modelsync", "environment", locks[1], out / "again", "--wheels", out / "wheels-2", *options)
    os.umask(old)
    yield "made again, elsewhere, by another umask", {"same": same_twice(out / "environment-2", out / "again")}
    trust = ours("modelsync", "init", store, "--keys", out / "keys")[0]["trust"]
    program = f"import {module}\nprint({module}.__version__)\n" + (_FIT if module == "sklearn" else "")
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
            here, there = (used(folder / "bin" / "python", "-c", program)[0] for folder in (environment, current))
            check = used(current / "bin" / "check-environment")[0].strip()
            yield (
                f"run {number}",
                {"cloud": here.split(), "device": there.split(), "same": here == there, "check": check},
            )
        yield "rollback", ours("modelsyncd", "rollback", _NAME, "--data", data)[0]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m examples.environment.real", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--locks", type=Path, nargs=2, default=(_HERE / "real-lock-1.txt", _HERE / "real-lock-2.txt"))
    parser.add_argument("--import", dest="module", default="sklearn", help="what is imported here and on the device")
    parser.add_argument("--peers", action="store_true", help="other ways beside it")
    arguments = parser.parse_args()
    out: Path = arguments.out.absolute()
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} has something in it: give a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(out / "cache")  # so that nothing is known from an earlier run
    report: Figures = {}

    def note(step: str, figures: Figures) -> None:
        report[step] = figures
        print(f"{step}: {json.dumps(figures)}", flush=True)
        (out / "real.json").write_text(json.dumps(report, indent=1) + "\n")

    for step, figures in measured(out, tuple(path.absolute() for path in arguments.locks), arguments.module):
        note(step, figures)
    if arguments.peers:
        note("other ways", peers(out))
    return 0 if all(figures.get("same", True) for figures in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
