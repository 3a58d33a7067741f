"""Requirements by key, and how they are spelled in signed metadata (FORMAT.md §12.5). No I/O here.

A requirement is a key and a value, both text. A key that is not known here is kept: a newer publisher's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError, UsageError

Requirements = Mapping[str, str]
"""Key → value, such as `onnx.opset` → `17`."""

ONNX_IR, ONNX_OPSET = "onnx.ir", "onnx.opset"
ONNX_ML = f"{ONNX_OPSET}.ai.onnx.ml"
TFLITE_RUNTIME, TFLITE_SCHEMA, TFLITE_CUSTOM = "tflite.runtime", "tflite.schema", "tflite.custom"
GGUF_VERSION, GGUF_ARCHITECTURE = "gguf.version", "gguf.architecture"
OPENVINO_IR = "openvino.ir"
ARCH, MEMORY, DISK, ACCELERATOR, PYTHON = "arch", "memory", "disk", "accelerator", "python"
PACKAGE, RUNTIME = "package:", "runtime:"
"""Before the name of a Python distribution, and before that of a runtime, whatever packages it comes in."""

_NUMBERS = (ONNX_OPSET, ONNX_IR, TFLITE_SCHEMA, GGUF_VERSION, OPENVINO_IR)
_SIZES = (MEMORY, DISK)

_SHORT = {
    "o": (ONNX_OPSET, ""),
    "i": (ONNX_IR, ""),
    "m": (ONNX_ML, ""),
    "t": (TFLITE_RUNTIME, ">="),
    "g": (GGUF_VERSION, ""),
    "v": (OPENVINO_IR, ""),
    "s": (f"{PACKAGE}scikit-learn", "=="),
}
"""Letters that stand for a key and what its value begins with, in the order in which they are written."""

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_GLUED = re.compile(rf"(?:[a-z]{_NUMBER}(?:\.{_NUMBER})*)+")
_GLUED_ONE = re.compile(rf"([a-z])({_NUMBER}(?:\.{_NUMBER})*)")
_VALUE_OF_SHORT = re.compile(rf"{_NUMBER}(?:\.{_NUMBER})*")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,79}")
_WORD = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:-]{0,79})((?:[=<>~!]=?=?)[!-:<-~=]{1,160})")
_VALUE = re.compile(r"[!-:<-~]{1,160}")
"""Printable ASCII without blanks and `;`, which divide requirements and versions."""

_OPERATORS = ("===", "==", ">=", "<=", "~=", "!=", ">", "<")
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s?([kKMGT]?i?)B?")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_RUN = re.compile(r"([1-9][0-9]{0,15}):(.*)")


def size_of(text: str) -> int | None:
    """Bytes of `512MiB`, `2GB` or `1000`; None if it is no size."""
    found = _SIZE.fullmatch(text)
    return None if found is None or found[2] not in _UNITS else int(float(found[1]) * _UNITS[found[2]])


def check(found: Requirements) -> Requirements:
    """Return them, or raise FormatError for a key or value that can't be spelled, or for too many."""
    if len(found) > caps.MAX_REQUIREMENTS:
        raise FormatError(f"a version has at most {caps.MAX_REQUIREMENTS} requirements.")
    for key, value in found.items():
        if not _KEY.fullmatch(key):
            raise FormatError(f"{key!r:.80} is no requirement's key: use letters, digits, '.', '_', ':' and '-'.")
        if not _VALUE.fullmatch(value) or _pairs(_word(key, value)) != {key: value}:
            raise FormatError(f"the requirement {key} has the value {value!r:.80}: use ASCII without blanks and ';'.")
    return found


def encode(found: Requirements) -> str:
    """Spell one version's requirements: letters first, glued, then the others by key. FormatError."""
    check(found)
    glued, left = "", dict(found)
    for letter, (key, begins) in _SHORT.items():
        value = left.get(key)
        if value is not None and value.startswith(begins) and _VALUE_OF_SHORT.fullmatch(value[len(begins) :]):
            glued += letter + value[len(begins) :]
            del left[key]
    words = [_word(key, value) for key, value in sorted(left.items())]
    text = " ".join([glued] * bool(glued) + words)
    if len(text) > caps.MAX_REQUIREMENTS_BYTES:
        raise FormatError(f"a version's requirements take at most {caps.MAX_REQUIREMENTS_BYTES} bytes.")
    return text


def decode(text: str) -> dict[str, str]:
    """Read what `encode` wrote, and what a newer publisher may write; FormatError for anything else."""
    if len(text) > caps.MAX_REQUIREMENTS_BYTES:
        raise FormatError(f"a version's requirements take at most {caps.MAX_REQUIREMENTS_BYTES} bytes.")
    found: dict[str, str] = {}
    for word in text.split(" ") if text else ():
        pairs = _pairs(word)
        if found.keys() & pairs.keys() or len(found) + len(pairs) > caps.MAX_REQUIREMENTS:
            raise FormatError("a requirement is there twice, or there are too many of them.")
        found |= pairs
    return found


def _word(key: str, value: str) -> str:
    whole = key + value
    return whole if _begins(value) and _WORD.fullmatch(whole) else f"{key}={value}"


def _pairs(word: str) -> dict[str, str]:
    if _GLUED.fullmatch(word):
        pairs: dict[str, str] = {}
        for letter, value in _GLUED_ONE.findall(word):
            key, begins = _SHORT.get(letter, (letter, ""))
            if key in pairs:
                raise FormatError(f"the requirement {key} is there twice.")
            pairs[key] = begins + value
        return pairs
    found = _WORD.fullmatch(word)
    if found is None:
        raise FormatError(f"{word!r:.80} is no requirement: it is written KEY=VALUE.")
    key, value = found[1], found[2]
    return {key: value if _begins(value) else value.removeprefix("=")}


def _begins(value: str) -> bool:
    return value.startswith(_OPERATORS)


def spell_versions(found: Mapping[int, Requirements]) -> str | None:
    """Spell the requirements of a role's versions, newest first; None if none has any.

    `N:SET;N:SET…`: each holds for the versions up to its N and above the next one. Of versions above the first N
    nothing is said: a publisher that does not know the field may have signed them.
    """
    runs: list[tuple[int, str]] = []
    for version in sorted(found, reverse=True):
        text = encode(found[version])
        if not runs or runs[-1][1] != text:
            runs.append((version, text))
    while runs and not runs[0][1]:
        runs.pop(0)
    return ";".join(f"{version}:{text}" for version, text in runs) or None


def of_version(spelled: object, version: int) -> dict[str, str]:
    """What `version` requires by a role's field (None: nothing); FormatError for what is not spelled so."""
    if spelled is None:
        return {}
    if not isinstance(spelled, str) or len(spelled) > caps.MAX_ROLE_REQUIREMENTS_BYTES:
        raise FormatError("the metadata's requirements are no text of the right length: publish it anew.")
    text, above = "", caps.MAX_VERSION + 1
    for run in spelled.split(";"):
        found = _RUN.fullmatch(run)
        if found is None or not int(found[1]) < above:
            raise FormatError("the metadata's requirements do not list versions from the newest down: publish it anew.")
        above = int(found[1])
        if version > above:
            break
        text = found[2]
    return decode(text)


def from_words(words: Iterable[str]) -> dict[str, str]:
    """Read what a person wrote, `KEY=VALUE` or `KEY>=VALUE`; UsageError says what is wrong and what to write."""
    found: dict[str, str] = {}
    for word in words:
        match = _WORD.fullmatch("".join(word.split()))
        if match is None:
            raise UsageError(f"{word!r:.80} is no requirement; write it as memory=512MiB or package:numpy>=1.26.")
        key, value = match[1], match[2] if _begins(match[2]) else match[2].removeprefix("=")
        if key in found:
            raise UsageError(f"the requirement {key} is given twice.")
        found[key] = _checked(key, value)
    try:
        encode(found)
    except FormatError as error:
        raise UsageError(str(error)) from error
    return found


def _checked(key: str, value: str) -> str:
    """A person's value as it is signed; UsageError for one that its key can't have."""
    if key in _NUMBERS or key.startswith(f"{ONNX_OPSET}."):
        number = value.removeprefix(">=").removeprefix("==")
        if not re.fullmatch(_NUMBER, number):
            raise UsageError(f"{key} is a whole number, such as {key}=17, not {value!r:.40}.")
        return number
    if key in _SIZES:
        text = value.removeprefix(">=")
        if size_of(text) is None:
            raise UsageError(f"{key} is a size, such as {key}=512MiB, not {value!r:.40}.")
        return text
    if key in (PYTHON, TFLITE_RUNTIME) or key.startswith((PACKAGE, RUNTIME)):
        return _specifier(key, value)
    return value


def _specifier(key: str, value: str) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # only where somebody states one

    if value == "*":
        return value
    text = value if _begins(value) else f"=={value}"
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise UsageError(f"{key} is a range of versions (PEP 440), such as {key}>=1.2,<2, not {value!r:.40}.") from None
    return text


def told(key: str, value: str) -> str:
    """A requirement for people: `ONNX opset 17`, `scikit-learn ==1.5.2`, `memory 512MiB`."""
    names = {
        ONNX_OPSET: "ONNX opset",
        ONNX_IR: "ONNX IR version",
        TFLITE_RUNTIME: "TensorFlow Lite",
        TFLITE_SCHEMA: "TensorFlow Lite schema",
        TFLITE_CUSTOM: "TensorFlow Lite custom operators",
        GGUF_VERSION: "GGUF version",
        GGUF_ARCHITECTURE: "GGUF architecture",
        OPENVINO_IR: "OpenVINO IR version",
        ARCH: "architecture",
        DISK: "free disk",
        PYTHON: "Python",
    }
    if key.startswith(f"{ONNX_OPSET}."):
        return f"opset {value} of {key.removeprefix(f'{ONNX_OPSET}.')}"
    name = names.get(key, key.removeprefix(PACKAGE).removeprefix(RUNTIME))
    return name if value == "*" else f"{name} {value}"
