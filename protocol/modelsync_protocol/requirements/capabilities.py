"""What a device has, as a document and as one short line for reports. No I/O here: the device looks, this only spells.

The document: `arch`, `memory` and `disk` (bytes; free for the model), `has` (what the settings say: key → value),
`environments` (one for each kind of process that runs the model: `python`, `packages` by normalised name, `complete`:
whether what is not named is not installed). What is not there is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from modelsync_protocol.requirements.releases import REPORTED, normalised

_ARCHITECTURES = {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64", "armhf": "armv7l", "armv7": "armv7l"}
_WORD = re.compile(r"([a-z0-9][a-z0-9.-]{0,63})=([0-9A-Za-z._+!-]{1,40})")
_HAS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:-]{0,79})=([!-:<-~]{1,160})")
_RUNTIMES = "runtimes"
"""`complete`: only runtimes that are not named are not installed."""

_MAX_LINE = 400
_MIB = 1024 * 1024


def architecture(name: str) -> str:
    """The kernel's name of an architecture, whatever others call it."""
    return _ARCHITECTURES.get(name.lower(), name.lower())


def pair(word: str) -> tuple[str, str]:
    """Key and value of a word of the settings, `KEY=VALUE`; ValueError."""
    found = _HAS.fullmatch(word)
    if found is None:
        raise ValueError(f"{word!r:.80} is not of the form KEY=VALUE, such as accelerator=hailo.")
    return found[1], found[2]


def environment(document: object) -> dict[str, Any] | None:
    """An inference process's word on itself, read; None if it is none. Names are normalised, values kept short."""
    if not isinstance(document, Mapping):
        return None
    packages, python = document.get("packages"), document.get("python")
    found: dict[str, Any] = {}
    if isinstance(python, str) and len(python) <= 40:
        found["python"] = python
    if isinstance(packages, Mapping) and len(packages) <= 10_000:
        pairs = packages.items()
        named = {normalised(str(key)): value for key, value in pairs if isinstance(value, str) and len(value) <= 40}
        found |= {"packages": dict(sorted(named.items())), "complete": document.get("complete") is True}
    machine = document.get("arch")
    if isinstance(machine, str) and len(machine) <= 40:
        found["arch"] = architecture(machine)
    return found or None


def line(capabilities: Mapping[str, Any]) -> str:
    """Architecture, memory (MiB), Python and runtimes in one line; the first process's, where there are several."""
    words = []
    if isinstance(arch := capabilities.get("arch"), str):
        words.append(("arch", architecture(arch)))
    if isinstance(memory := capabilities.get("memory"), int):
        words.append(("memory", str(memory // _MIB)))
    for each in environments(capabilities)[:1]:
        if "python" in each:
            words.append(("python", each["python"]))
        packages = each.get("packages", {})
        words += [(name, packages[name]) for name in REPORTED if name in packages]
    text = " ".join(f"{key}={value}" for key, value in words if _WORD.fullmatch(f"{key}={value}"))
    return text[:_MAX_LINE].rpartition(" ")[0] if len(text) > _MAX_LINE else text


def of_line(text: object) -> dict[str, Any]:
    """What a line says, as the document; what can't be read of it is not known."""
    if not isinstance(text, str) or len(text) > _MAX_LINE:
        return {}
    words = {match[1]: match[2] for word in text.split() if (match := _WORD.fullmatch(word))}
    found: dict[str, Any] = {}
    if "arch" in words:
        found["arch"] = words.pop("arch")
    if (memory := words.pop("memory", "")).isdecimal():
        found["memory"] = (int(memory) + 1) * _MIB  # rounded down when it was written
    if "python" in words:  # else no process has said anything
        packages = {name: value for name, value in words.items() if name in REPORTED}
        found["environments"] = [{"python": words["python"], "packages": packages, "complete": _RUNTIMES}]
    return found


def environments(capabilities: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The processes' words in a document; empty if none said anything."""
    found = capabilities.get("environments")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []
