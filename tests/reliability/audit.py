"""Looks our pinned dependencies up in the public advisories: `python -m tests.reliability.audit pip-audit FILE…`.

Exit 0 if none is known to be vulnerable, 1 if one is. Where the advisories can't be reached it says so in capitals and
exits with 0: a check on a machine without a network must not pass for one that found nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

SECONDS = 300
_OPTIONS = ("--require-hashes", "--disable-pip", "--vulnerability-service", "osv", "--progress-spinner", "off")
_UNREACHABLE = (
    "ConnectionError",
    "Max retries exceeded",
    "Name or service not known",
    "ConnectTimeout",
    "ServiceError",
)


def audit(program: str, files: Sequence[str]) -> tuple[int, str]:
    """(exit code, what to print) of one look-up; a look-up that takes longer than SECONDS counts as unreachable."""
    arguments = [part for file in files for part in ("--requirement", file)]
    try:
        done = subprocess.run(
            [program, *_OPTIONS, *arguments], capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return 0, _skipped(f"no answer within {SECONDS} s")
    if done.returncode and any(sign in done.stderr for sign in _UNREACHABLE):
        return 0, _skipped("the advisories can't be reached from this machine")
    if done.returncode:
        return 1, f"{done.stdout}{done.stderr}"
    return 0, f"{', '.join(files)}: no known vulnerability\n"


def _skipped(why: str) -> str:
    return f"!!! AUDIT SKIPPED: {why}. Dependencies were NOT looked up; run `make audit` where there is a network.\n"


if __name__ == "__main__":
    code, text = audit(sys.argv[1], sys.argv[2:])
    sys.stdout.write(text)
    sys.exit(code)
