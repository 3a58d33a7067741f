"""Names that travel: model names, versions, digests, artifact paths, and the store's layout. No I/O here."""

from __future__ import annotations

import re

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError, UsageError

_MODEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check_model_name(name: str) -> str:
    """Return `name` if it is a model name (`[a-z0-9][a-z0-9_-]{0,62}`), else raise UsageError."""
    if not _MODEL.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a model name: use 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter or digit."
        )
    return name


def is_digest(text: object) -> bool:
    """Whether `text` is a SHA-256 in lower-case hex."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def check_digest(text: object) -> str:
    """Return `text` if it is a SHA-256 in lower-case hex, else raise FormatError."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise FormatError(f"{text!r:.80} is not a SHA-256 digest in lower-case hex.")
    return text


_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
"""Control characters and the backslash."""


def check_version(version: object) -> int:
    """Return `version` if it is a model version (an integer from 1 to 2^52 - 1), else raise UsageError."""
    if type(version) is not int or not 1 <= version <= caps.MAX_VERSION:
        raise UsageError(f"{version!r:.40} is not a version: use an integer from 1 to {caps.MAX_VERSION}.")
    return version


def check_relative_path(path: object) -> str:
    """Return `path` if it is a normalised relative POSIX path that is safe on every device, else raise FormatError.

    Refused: absolute paths, `.` and `..` parts, empty parts, control characters and backslashes, names of
    devices (`con`, `nul`, …), parts over 255 bytes and paths over caps.MAX_PATH_BYTES.
    """
    if not isinstance(path, str) or not path or len(path) > caps.MAX_PATH_BYTES:
        raise FormatError(f"{path!r:.80} is not a usable file path.")
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(f"{path!r:.80} is not valid Unicode; rename the file.") from error
    if len(raw) > caps.MAX_PATH_BYTES or _UNSAFE.search(path):
        raise FormatError(f"{path!r:.80} holds a control character or backslash, or is too long; rename the file.")
    for part in path.split("/"):
        if part in ("", ".", "..") or len(part.encode()) > 255 or _DEVICE_NAME.fullmatch(part):
            raise FormatError(f"{path!r:.80} is not a normalised relative path without device names.")
    return path


def target_path(model: str, version: int) -> str:
    """The TUF target path of one version: `<model>/<version>`."""
    return f"{model}/{version}"


def manifest_object(digest: str) -> str:
    """Store path of a manifest with its index."""
    return f"manifests/{digest}"


def pack_object(digest: str) -> str:
    """Store path of a pack."""
    return f"packs/{digest}"


def update_object(target: str, base: str, version: int = 1) -> str:
    """Store path of the update from manifest digest `base` to manifest digest `target`, in a version of its format."""
    return f"updates/{target}/{base}.v{version}"


def release_object(digest: str) -> str:
    """Store path of a release record."""
    return f"releases/{digest}"


def bundle_object(model: str) -> str:
    """Store path of a model's trust bundle."""
    return f"bundles/{model}"


def parcel_object(model: str, base: str | None, version: int = 1) -> str:
    """Store path of a model's parcel for devices that hold manifest digest `base`, or nothing of the model.

    `version` is the newest version of the update's format that its readers know.
    """
    return f"bundles/{model}.{'new' if base is None else base[:8]}{'' if version == 1 else f'.v{version}'}"
