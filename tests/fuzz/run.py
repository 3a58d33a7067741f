"""Coverage-guided fuzzing of every target in a time budget: `python -m tests.fuzz.run --seconds 60 [--target NAME]`.

Each target gets an equal share of the time, in its own process. Findings are kept under regressions/<target>/, where
the test suite runs them ever after. `--merge FOLDER` replaces the kept corpus by the smallest inputs, of it and FOLDER,
that together reach everything that all reach.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.kept import CORPUS, REGRESSIONS, ROOT, inputs
from tests.fuzz.targets import TARGETS
from tests.support.figures import record

WORK = ROOT / "build" / "fuzz"
"""Inputs found by earlier runs on this machine: not kept with the source."""

INPUT_SECONDS = 10
"""An input that takes longer is a finding, although a machine may be busy."""

MAX_INPUT_BYTES = 65_536
MAX_KEPT_BYTES = 9_000
"""Of one target's corpus: all targets stay below 300 KB."""

_EVENT = re.compile(r"^#(\d+)\s+(?:INITED|NEW|REDUCE|pulse|DONE|RELOAD)\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.M)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a share of the time gave: executions, edges covered, inputs in the corpus, files of findings."""

    executions: int
    edges: int
    corpus: int
    findings: tuple[Path, ...]
    output: str


def fuzz(name: str, seconds: int, seed: int = 0) -> Outcome:
    """Fuzz one target; what libFuzzer calls a crash, a leak of time or of memory is a finding.

    Seed 0 is another one each time.
    """
    work, kept, found = WORK / name, CORPUS / name, REGRESSIONS / name
    for folder in (work, kept, found):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    arguments = (
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-timeout={INPUT_SECONDS}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={found}/",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    )
    output, code = _child(_command(name), *arguments, str(work), str(kept))
    events = _EVENT.findall(output)
    executions, edges, _, corpus = map(int, events[-1]) if events else (0, 0, 0, 0)
    new = tuple(sorted(set(found.iterdir()) - before))
    if code and not new:
        raise SystemExit(f"the fuzzer of {name} broke off without an input (exit {code}):\n{output[-4000:]}")
    if not any(found.iterdir()):
        found.rmdir()
    return Outcome(executions, edges, corpus, new, output)


def merge(name: str, more: Path) -> None:
    """Replace the kept corpus of a target; what exceeds MAX_KEPT_BYTES is left out, the largest first."""
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as programs:
        again = Path(programs) / "again"
        again.write_text(f'#!/bin/sh\nexec {shlex.join(_command(name, str(again)))} "$@"\n', encoding="utf-8")
        again.chmod(0o755)
        sources = [str(folder) for folder in (kept, more / name) if folder.is_dir()]
        output, code = _child(_command(name, str(again)), "-merge=1", f"-max_len={MAX_KEPT_BYTES}", scratch, *sources)
        if code:
            raise SystemExit(f"the merge of {name} failed (exit {code}):\n{output[-4000:]}")
        for path in kept.iterdir():
            path.unlink()
        room = MAX_KEPT_BYTES
        for path in sorted(Path(scratch).iterdir(), key=lambda path: (path.stat().st_size, path.name)):
            room -= path.stat().st_size
            if room < 0:
                break
            (kept / path.name[:16]).write_bytes(path.read_bytes())


def _command(name: str, again: str = "-") -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.child", name, again]


def _child(command: list[str], *arguments: str) -> tuple[str, int]:
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.stdout.decode(errors="replace"), done.returncode


def main() -> int:
    """Fuzz, report a line per target, and answer 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together (default: %(default)s)")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    parser.add_argument(
        "--seed", type=int, default=0, help="start from this one: a gate tries the same inputs again (default: by time)"
    )
    parser.add_argument("--merge", type=Path, metavar="FOLDER", help="merge FOLDER/<target>/ into the kept corpus")
    options = parser.parse_args()
    names = options.target or sorted(TARGETS)
    say = sys.stdout.write
    if options.merge:
        for name in names:
            merge(name, options.merge)
            say(f"{name}: {sum(map(len, inputs(CORPUS, name)))} bytes kept\n")
        return 0
    share = max(1, options.seconds // len(names))
    say(f"{'target':20}{'executions':>12}{'edges':>8}{'corpus':>8}{'findings':>10}\n")
    total = findings = 0
    for name in names:
        outcome = fuzz(name, share, options.seed)
        figures = {"executions": outcome.executions, "edges covered": outcome.edges, "findings": len(outcome.findings)}
        record("fuzzing", name, **figures)
        total, findings = total + outcome.executions, findings + len(outcome.findings)
        say(
            f"{name:20}{outcome.executions:12,}{outcome.edges:8,}{outcome.corpus:8,}{len(outcome.findings):10}\n",
        )
        sys.stdout.flush()
        if outcome.findings:
            say(f"{outcome.output[-3000:]}\n{', '.join(str(path.relative_to(ROOT)) for path in outcome.findings)}\n")
    say(f"{total:,} executions in {share} s for each of {len(names)} targets; {findings} findings\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
