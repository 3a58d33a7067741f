"""Compares what a version requires with what a device has. Pure; what can't be told is never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelsync_protocol.requirements import releases, terms
from modelsync_protocol.requirements.capabilities import architecture, environments
from modelsync_protocol.requirements.releases import Release, normalised, release_of


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came out. `missing`: phrases for people, each one requirement that this device surely does not meet.

    `unknown` are keys that nobody here knows (a newer publisher's), `untold` known ones of which it can't be told
    whether they are met; `room` is a phrase if there is not enough free disk now, which may change by itself.
    """

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    room: str = ""


class _Untold(Exception):
    """Nothing that is known decides this."""


class _UnknownKey(Exception):
    """The key says nothing to this program."""


_Answer = str | None
"""None: met; else what is missing, for people."""


def judge(requires: terms.Requirements, capabilities: Mapping[str, Any]) -> Judgement:
    """Judge each requirement by itself. `capabilities` as capabilities.py describes them; {} is a device unheard of."""
    missing, unknown, untold, room = [], [], [], ""
    for key, value in sorted(requires.items()):
        try:
            answer = _stated(key, value, capabilities)
            if answer is not None and key == terms.DISK:
                room = answer
            elif answer is not None:
                missing.append(answer)
        except _Untold:
            untold.append(key)
        except _UnknownKey:
            unknown.append(key)
    return Judgement(tuple(missing), tuple(unknown), tuple(untold), room)


def _stated(key: str, value: str, capabilities: Mapping[str, Any]) -> _Answer:
    has = capabilities.get("has")
    if isinstance(has, Mapping) and isinstance(word := has.get(key), str):
        return _by_word(key, value, word)
    if key == terms.ARCH:
        return _architecture(value, capabilities)
    if key in (terms.MEMORY, terms.DISK):
        return _size(key, value, capabilities.get(key))
    if key == terms.ACCELERATOR:
        raise _Untold
    check = _check_of(key, value)
    found = environments(capabilities) or _set_by_hand(has)
    if not found:
        raise _Untold
    answers = [check(each) for each in found]  # each process has to run it
    return next((answer for answer in answers if answer is not None), None)


def _set_by_hand(has: object) -> Sequence[Mapping[str, Any]]:
    """What runs models where no process says so, from the settings' words on runtimes, packages and Python."""
    packages: dict[str, str] = {}
    for key, word in has.items() if isinstance(has, Mapping) else ():
        name = key.removeprefix(terms.RUNTIME)
        if name != key and name in releases.PACKAGES:
            packages[releases.PACKAGES[name][0]] = word
        elif key.startswith(terms.PACKAGE):
            packages[normalised(key.removeprefix(terms.PACKAGE))] = word
    return [{"packages": packages}] if packages else []


def _check_of(key: str, value: str) -> Callable[[Mapping[str, Any]], _Answer]:
    """How the word of one process is judged for a key; _UnknownKey."""
    if key in (terms.ONNX_OPSET, terms.ONNX_IR) or key.startswith(f"{terms.ONNX_OPSET}."):
        return lambda each: _onnx(key, value, each)
    if key == terms.PYTHON:
        return lambda each: _python(value, each)
    if key.startswith(terms.PACKAGE):
        return lambda each: _package(key, value, each)
    if key.startswith(terms.RUNTIME):
        return lambda each: _runtime(key, value, each)
    if key == terms.TFLITE_RUNTIME:
        return lambda each: _tflite(value, each)
    if key == terms.TFLITE_SCHEMA:
        return lambda each: _readable(value, releases.TFLITE_SCHEMA_KNOWN)
    if key == terms.GGUF_VERSION:
        return lambda each: _gguf(value, each)
    if key == terms.OPENVINO_IR:
        return lambda each: _openvino(value, each)
    if key in (terms.TFLITE_CUSTOM, terms.GGUF_ARCHITECTURE):
        raise _Untold
    raise _UnknownKey


def _by_word(key: str, value: str, word: str) -> _Answer:
    """What somebody set of this very key decides it."""
    said = f"{terms.told(key, value)} is required; this device is set to have {word!r}"
    if key in (terms.MEMORY, terms.DISK):
        return _size(key, value, terms.size_of(word))
    if key == terms.ARCH:
        return None if architecture(word) in _either(value) else said
    if value.isdecimal() and word.isdecimal():
        return None if int(word) >= int(value) else said
    if key == terms.PYTHON or key == terms.TFLITE_RUNTIME or key.startswith((terms.PACKAGE, terms.RUNTIME)):
        return None if _within(word, value) else said
    owned = set(word.split(","))
    if key == terms.ACCELERATOR:  # one of several will do
        return None if owned & set(value.split("|")) else said
    return None if set(value.split(",")) <= owned else said


def _architecture(value: str, capabilities: Mapping[str, Any]) -> _Answer:
    here = {str(each["arch"]) for each in environments(capabilities) if "arch" in each}
    if not here:
        if not isinstance(arch := capabilities.get("arch"), str):
            raise _Untold
        here = {architecture(arch)}
    wrong = sorted(here - _either(value))
    return f"it is for {' or '.join(sorted(_either(value)))}; this is {wrong[0]}" if wrong else None


def _either(value: str) -> set[str]:
    return {architecture(each) for each in value.split("|")}


def _size(key: str, value: str, here: object) -> _Answer:
    needed = terms.size_of(value)
    if needed is None or type(here) is not int:
        raise _Untold
    what = "free disk" if key == terms.DISK else "memory"
    return None if here >= needed else f"{what} of {value} is required; here are {here // 2**20} MiB"


def _installed(each: Mapping[str, Any], names: Sequence[str]) -> tuple[str, str] | None:
    """(name, version) of the first of these distributions that is there; None if surely none is; _Untold."""
    packages = each.get("packages")
    if not isinstance(packages, Mapping):
        raise _Untold
    for name in names:
        if isinstance(version := packages.get(name), str):
            return name, version
    complete = each.get("complete")
    if complete is True or (complete == "runtimes" and all(name in releases.REPORTED for name in names)):
        return None
    raise _Untold


def _python(value: str, each: Mapping[str, Any]) -> _Answer:
    if not isinstance(version := each.get("python"), str):
        raise _Untold
    return None if _within(version, value) else f"Python {value} is required; Python {version} runs models here"


def _package(key: str, value: str, each: Mapping[str, Any]) -> _Answer:
    name = normalised(key.removeprefix(terms.PACKAGE))
    return _version(name, value, _installed(each, releases.PACKAGES.get(name, (name,))))


def _runtime(key: str, value: str, each: Mapping[str, Any]) -> _Answer:
    name = key.removeprefix(terms.RUNTIME)
    if name not in releases.PACKAGES:
        raise _Untold
    if name == "tflite":  # whose packages count their releases apart
        return _tflite(value, each)
    return _version(name, value, _installed(each, releases.PACKAGES[name]))


def _version(name: str, value: str, found: tuple[str, str] | None) -> _Answer:
    wanted = name if value == "*" else f"{name} {value}"
    if found is None:
        return f"{wanted} is required; it is not installed where models run"
    return None if value == "*" or _within(found[1], value) else f"{wanted} is required; {found[0]} {found[1]} is here"


def _onnx(key: str, value: str, each: Mapping[str, Any]) -> _Answer:
    what = {terms.ONNX_OPSET: "opset", terms.ONNX_ML: "ml", terms.ONNX_IR: "ir"}.get(key)
    number, found = _whole(value), _installed(each, releases.PACKAGES["onnxruntime"])
    if found is None:
        for name in releases.ONNX_READERS:
            if _installed(each, releases.PACKAGES[name]) is not None:
                raise _Untold  # another reader of ONNX, whose releases are not in the table
        return f"{terms.told(key, value)} is required; no runtime for ONNX is installed where models run"
    if what is None:  # operators of somebody's own library
        raise _Untold
    release, told = release_of(found[1])[:2], terms.told(key, value)
    if not release:
        raise _Untold
    reads = releases.onnx_runtime_reads(release)
    if reads is None and number <= getattr(releases.ONNX_RUNTIME[0][1], what):
        raise _Untold  # older than the table, and the model may be, too
    if reads is not None and getattr(reads, what) >= number:
        return None
    if release > releases.ONNX_RUNTIME_KNOWN:
        raise _Untold  # newer than the table, and the model is, too
    since = releases.onnx_runtime_since(what, number)
    needs = "a newer one" if since is None else f"{_dotted(since)} or newer"
    return f"{told} is required, which takes onnxruntime {needs}; {found[0]} {found[1]} is here"


def _tflite(value: str, each: Mapping[str, Any]) -> _Answer:
    found = _installed(each, releases.PACKAGES["tflite"])
    if found is None:
        return f"TensorFlow Lite {value} is required; no runtime for it is installed where models run"
    if value == "*":
        return None
    if found[0] == "tflite-micro":
        raise _Untold
    if found[0] == "ai-edge-litert":
        if _within(_dotted(releases.LITERT_IS), value):
            return None
        raise _Untold
    return None if _within(found[1], value) else f"TensorFlow Lite {value} is required; {found[0]} {found[1]} is here"


def _gguf(value: str, each: Mapping[str, Any]) -> _Answer:
    if _installed(each, releases.PACKAGES["llama.cpp"]) is None:
        return f"{terms.told(terms.GGUF_VERSION, value)} is required; llama.cpp is not installed where models run"
    return _readable(value, releases.GGUF_KNOWN)


def _openvino(value: str, each: Mapping[str, Any]) -> _Answer:
    found, since = _installed(each, releases.PACKAGES["openvino"]), releases.OPENVINO_IR.get(_whole(value))
    if found is None:
        return f"{terms.told(terms.OPENVINO_IR, value)} is required; OpenVINO is not installed where models run"
    if since is None:
        raise _Untold
    if release_of(found[1]) >= since:
        return None
    told = terms.told(terms.OPENVINO_IR, value)
    return f"{told} is required, which takes openvino {_dotted(since)} or newer; {found[0]} {found[1]} is here"


def _readable(value: str, known: int) -> _Answer:
    if _whole(value) > known:
        raise _Untold
    return None


def _whole(value: str) -> int:
    if not value.isdecimal():
        raise _Untold
    return int(value)


def _dotted(release: Release) -> str:
    return ".".join(map(str, release))


def _within(version: str, specifier: str) -> bool:
    """Whether a version lies in a range; _Untold for what is neither a version nor a range."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # only where a range is stated
    from packaging.version import InvalidVersion

    if specifier == "*":
        return True
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        raise _Untold from None
