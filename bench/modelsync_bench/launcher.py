"""Runs one command on the device and writes what it used: a process of its own, so that memory is the command's.

`python -I -S launcher.py REPORT COMMAND…` writes `{"code", "seconds", "cpu", "memory"}` to REPORT (seconds, seconds,
resident bytes of the largest process) and exits as the command did. The kernel carries a parent's size over to the
child that it starts: this launcher stays small so that little is carried (about 10 MiB), and imports nothing of ours.
"""

import json
import os
import sys
import time


def main() -> None:
    """See the module."""
    report, *command = sys.argv[1:]
    begin = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with open(report, "w") as file:  # noqa: PTH123 - pathlib is 3 MiB that would be carried over
        json.dump(
            {
                "code": code,
                "seconds": time.monotonic() - begin,
                "cpu": usage.ru_utime + usage.ru_stime,
                "memory": usage.ru_maxrss * 1024,
            },
            file,
        )
    sys.exit(code if code >= 0 else 128 - code)


main()
