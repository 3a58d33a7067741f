"""Runs the public TUF conformance suite against the device's client: `python -m tests.reliability.conformance DIR`.

DIR is a checkout of github.com/theupdateframework/tuf-conformance, which is on no package index. The suite turns the
clock with Debian's `faketime`. What it counts becomes a row of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.figures import ROOT, record

_COUNT = re.compile(r"(\d+) (passed|failed|error)")


def main() -> int:
    """Exit 0 if every case passed, 1 if not, 2 if the suite can't be run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("suite", type=Path)
    suite: Path = parser.parse_args().suite.absolute()
    if not (suite / "tuf_conformance").is_dir() or shutil.which("faketime") is None:
        parser.error("give a checkout of tuf-conformance, and install the package faketime.")
    with tempfile.TemporaryDirectory() as scratch:
        client = Path(scratch) / "client"
        client.write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" -m tests.reliability.tuf_client "$@"\n')
        client.chmod(0o755)
        command = [sys.executable, "-m", "pytest", "tuf_conformance", "--entrypoint", str(client), "-q"]
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider"],
            cwd=suite,
            env={**os.environ, "PYTHONPATH": str(suite)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    output = done.stdout.decode(errors="replace")
    sys.stdout.write(output)
    counts = {kind: int(number) for number, kind in _COUNT.findall(output.splitlines()[-1])}
    if not counts:
        return 2
    record(
        "tuf",
        "public conformance suite",
        passed=counts.get("passed", 0),
        failed=sum(counts.values()) - counts["passed"],
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
