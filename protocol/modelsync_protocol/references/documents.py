"""Files that YAML, JSON and protobuf text beside a model name: config.pbtxt, MLmodel, index files. No I/O.

Only keys that programs follow are read: a tokenizer's words may look like paths, and a note on where a model came from
opens nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from modelsync_protocol.errors import FormatError
from modelsync_protocol.references.findings import Findings
from modelsync_protocol.references.tree import OutsideError, resolve, shown

_MAX_BYTES = 32 * 1024 * 1024
_MAX_DEPTH = 64
_KEYS = (
    r"default_model_filename|model_filename|cc_model_filenames|op_library_filename|input_data_file|model_path|"
    r"pickled_model|pickle_module_path|data|code|conda|virtualenv|python_env|requirements|saved_model_dir|"
    r"filename|file_name|custom_ops_library|custom_op_library|external_data|path|string_value"
)
_FIELD = re.compile(rf"""["']?\b({_KEYS})["']?\s*:\s*(?:"([^"\n]*)"|'([^'\n]*)'|([^\s"',}}\]][^\n,}}\]]*))""")
_JSON_KEYS = frozenset({"filename", "file_name", "custom_ops_library", "custom_op_library", "external_data"})


def handles(path: str) -> bool:
    """Whether `path` is one of the documents that are read here."""
    name = path.rpartition("/")[2]
    return name in ("config.pbtxt", "MLmodel") or name.endswith(".json")


def read(findings: Findings, path: str, data: memoryview) -> None:
    """Note the files that the document `path` names; FormatError if it can't be read."""
    if len(data) > _MAX_BYTES:
        raise FormatError("the document is too long to be read.")
    text = bytes(data).decode(errors="replace")
    if path.endswith(".json"):
        try:
            _walk(findings, path, json.loads(text), 0)
        except (ValueError, RecursionError) as error:
            raise FormatError("the document is no JSON.") from error
        return
    for match in _FIELD.finditer(text):
        key, value = match[1], next(group for group in match.groups()[1:] if group is not None)
        _check(findings, path, key, value.strip())


def _walk(findings: Findings, path: str, value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise FormatError("the document is nested too deeply.")
    if isinstance(value, list):
        for item in value:
            _walk(findings, path, item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "weight_map" and isinstance(item, dict):
                for shard in {str(shard) for shard in item.values()}:
                    findings.name(path, "weight_map", shard, "the file")
            elif key == "auto_map":
                findings.execute(path, "auto_map", "names Python code that transformers would import.")
            elif key in _JSON_KEYS and isinstance(item, str):
                _check(findings, path, key, item)
            _walk(findings, path, item, depth + 1)


def _check(findings: Findings, path: str, key: str, value: str) -> None:
    """What is outside is refused; what is merely missing is not: many of these are no files but names."""
    folder = path.rpartition("/")[0]
    try:
        resolve(findings.tree.entries, folder, value)
    except OutsideError as error:
        if not str(error).startswith(("is not a file", "is empty")):
            findings.refuse(path, key, f"the path {shown(value)} {error}.")
    else:
        findings.name(path, key, value, "the path")
