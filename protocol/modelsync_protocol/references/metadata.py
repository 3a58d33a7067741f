"""Session options that a model carries in its metadata: which of them load code or touch files. No I/O here.

ONNX Runtime reads `ort_config` where it is told to (docs of ORT_LOAD_CONFIG_FROM_MODEL); others read keys of their own.
"""

from __future__ import annotations

import json
import re

from modelsync_protocol.references.findings import Findings

_MAX_CONFIG_BYTES = 64 * 1024
_HARMLESS = frozenset(
    {"intra_op_num_threads", "inter_op_num_threads", "execution_mode", "graph_optimization_level", "enable_profiling"}
)
_OPTION = re.compile(r"(session|ep|optimization|mlas|memory)\.[a-z0-9_.]+", re.IGNORECASE)
_TOUCHES = re.compile(r"file|path|folder|dir|librar|custom_op|context|prefix", re.IGNORECASE)


def check_metadata(findings: Findings, path: str, where: str, key: str, value: memoryview) -> None:
    """Refuse an entry of a model's metadata that makes a runtime load code, or read or write files."""
    plain = key.strip().lower()
    if plain == "ort_config":
        _check_config(findings, path, bytes(value[: _MAX_CONFIG_BYTES + 1]))
    elif (_OPTION.fullmatch(plain) and _TOUCHES.search(plain)) or plain in ("custom_ops_library", "custom_op_library"):
        findings.refuse(path, where, f"the session option {key[:80]!r} names files or code.")


def _check_config(findings: Findings, path: str, text: bytes) -> None:
    try:
        document = json.loads(text) if len(text) <= _MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError):
        document = None
    options = document.get("session_options") if isinstance(document, dict) else None
    if not isinstance(document, dict) or set(document) - {"session_options"} or not isinstance(options or {}, dict):
        findings.refuse(path, "ort_config", "holds more than session options, or can't be read.")
        return
    for key, value in (options or {}).items():
        if key not in _HARMLESS or type(value) is not int:
            findings.refuse(path, "ort_config", f"sets {str(key)[:80]!r}, which may name files or code.")
        elif key == "enable_profiling" and value:
            findings.refuse(path, "ort_config", "turns profiling on, which writes files.")
