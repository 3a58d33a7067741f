"""`python -m bench.scale`: runs the measures, holds them against the table of `targets.py`, keeps a JSON result.

Exit code 0 if every row is met, 1 if one is missed or was not measured. A quick run's targets are shown and not held.
What `--only` leaves out stays as the result has it, so an interrupted run goes on with what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.scale import MEASURES, targets

_SECONDS = {"quick": 300, "default": 1800, "full": 4 * 3600}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__.splitlines()[0] if __doc__ else None)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="scale", action="store_const", const="quick", help="seconds, holds no targets")
    size.add_argument("--full", dest="scale", action="store_const", const="full", help="with 10 GB; hours")
    parser.add_argument("--only", action="append", choices=MEASURES, metavar="MEASURE", help="may be repeated")
    parser.add_argument("--out", type=Path, default=Path("bench-scale.json"), help="the result (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, help="where inputs and stores go (default: TMPDIR)")
    parser.set_defaults(scale="default")
    options = parser.parse_args(arguments)
    document = _earlier(options.out)
    for name in options.only or MEASURES:
        document["measures"][name] = _measured(name, options.scale, options.scratch)
        document["machine"] = _machine()
        options.out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return _report(document, hold=options.scale != "quick")


def _earlier(out: Path) -> dict[str, Any]:
    """The result that is there, or an empty one."""
    try:
        document = json.loads(out.read_text(encoding="utf-8"))
        assert isinstance(document, dict)
        return document if isinstance(document.get("measures"), dict) else {"measures": {}}
    except FileNotFoundError:
        return {"measures": {}}
    except (ValueError, AssertionError):
        raise SystemExit(f"{out} is no result of bench.scale: move it away, or choose another --out.") from None


def _measured(name: str, scale: str, scratch: Path | None) -> dict[str, Any]:
    """A measure's own result with `scale` and `seconds`; `error` in place of values if it is missing or failed."""
    print(f"{name}: ", end="", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"modelsync-scale-{name}-", dir=scratch) as folder:
        place, out = Path(folder) / "scratch", Path(folder) / "out.json"
        place.mkdir()
        if importlib.util.find_spec(f"bench.scale.{name}") is None:
            result: dict[str, Any] = {"error": f"bench/scale/{name}.py is missing"}
        else:
            result = _run([sys.executable, "-m", "bench.scale.one", name, scale, str(place), str(out)], scale, out)
    result |= {"scale": scale, "seconds": round(time.monotonic() - begin, 1)}
    print(f"FAILED: {result['error']}" if "error" in result else f"{result['seconds']} s", flush=True)
    return result


def _run(command: list[str], scale: str, out: Path) -> dict[str, Any]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=_SECONDS[scale])
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {_SECONDS[scale]} s"}
    finally:
        # Whatever it started ends with it, on Ctrl-C too.
        _end_group(process.pid)
        process.wait()
    if process.returncode:
        return {"error": (said.strip().splitlines() or [f"ended with {process.returncode}"])[-1][:500]}
    result = json.loads(out.read_text(encoding="utf-8"))
    if not isinstance(result, dict):
        return {"error": "measure() gave no dict"}
    return result


def _end_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _machine() -> dict[str, Any]:
    """What the figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    zstd = shutil.which("zstd")
    version = subprocess.run([zstd, "--version"], capture_output=True, text=True).stdout if zstd else "none"
    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "zstd": version.strip().strip("*").strip(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _report(document: dict[str, Any], *, hold: bool) -> int:
    """Print the table; 0 if all is met, or if nothing failed and nothing is held."""
    verdicts = targets.judge(document["measures"])
    for verdict in verdicts:
        state = {True: "met", False: "MISSED", None: "NOT MEASURED"}[verdict.met]
        print(f"{state:12} {verdict.row.case}: {verdict.measured} (target: {verdict.row.target})")
    for name, result in document["measures"].items():
        for note in result.get("notes", ()):
            print(f"{name}: {note}")
    if not hold:
        return int(any("error" in result for result in document["measures"].values()))
    return int(any(verdict.met is not True for verdict in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
