"""The child: `python -m modelsync_server.examination.examiner`, an order on stdin, what was found on stdout, both JSON.

Order: `descriptor` of the artifact's stream, `files` ([path, begin, end] in it), `links` (path → target), `memory`
(bytes beside the stream) and `seconds` of processor time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import resource
import sys
import sysconfig
from pathlib import Path
from typing import Any

import modelsync_protocol
import modelsync_server
from modelsync_protocol import containers, references
from modelsync_protocol.errors import FormatError
from modelsync_protocol.references import MemoryTree
from modelsync_server.examination import landlock, syscall_filter

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/local/lib", "/etc/ld.so.cache", "/proc/cpuinfo", "/proc/meminfo")


def main() -> None:
    """Confine this process, read everything, and say what was found."""
    order = json.loads(sys.stdin.read())
    importlib.import_module("modelsync_protocol.references.programs")  # what is imported only when it is needed
    lib = syscall_filter.library()
    with mmap.mmap(order["descriptor"], 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as stream:
        layers = _confine(lib, order["memory"], order["seconds"])
        found = _read(order, stream)
        sys.stdout.write(json.dumps({**found, "layers": layers}))
        sys.stdout.flush()
        os._exit(0)  # what refers to the stream needs no tidying


def _read(order: dict[str, Any], stream: memoryview) -> dict[str, Any]:
    files = {path: stream[begin:end] for path, begin, end in order["files"]}
    for path, data in files.items():
        with contextlib.suppress(FormatError):  # what no reader understands is cut as bytes
            for _ in containers.tensors(path, data):
                pass
    findings = references.read(MemoryTree(files, order["links"]), model=order["model"], code=True)
    return {"refusal": findings.refusal, "code": [str(item) for item in findings.code]}


def _confine(lib: Any, memory: int, seconds: int) -> list[str]:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = {
        resource.RLIMIT_AS: size + memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    layers = ["rlimits"]
    if landlock.version():
        code = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        code += [folder for package in (modelsync_server, modelsync_protocol) for folder in package.__path__]
        with contextlib.suppress(OSError):
            landlock.restrict(map(Path, (*_LIBRARIES, *code)), ())
            layers.append("landlock")
    if lib is not None:
        with contextlib.suppress(OSError, RuntimeError):
            syscall_filter.deny(lib, syscall_filter.Files.READ)
            layers.append("seccomp")
    return layers


if __name__ == "__main__":
    main()
