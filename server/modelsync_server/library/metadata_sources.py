"""Where a publisher's metadata comes from: a JSON file, KEY=VALUE words, and git. What may be in it: release_record."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelsync_protocol import caps, near_names, release_record
from modelsync_protocol.errors import UsageError

_GIT_SECONDS = 20.0
_NOT_GIT = "take the commit with --commit instead."


def from_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(caps.MIB + 1)
        if len(data) > caps.MIB:
            raise UsageError(f"{path} is too long for metadata: at most 64 KiB are allowed.")
        document = json.loads(data)
    except OSError as error:
        raise UsageError(f"{path} can't be read ({error.strerror}): give a JSON file with the metadata.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} holds no JSON object: metadata is an object of keys and values.")
    return document


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """The object that KEY=VALUE words say. `metrics.auc=0.93` is inside `metrics`; other dots belong to the key.

    A value that is a JSON number, true, false or null is that; everything else is text. UsageError.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not key or not equals:
            raise UsageError(f"--meta {word!r:.60} is not of the form KEY=VALUE.")
        if key.startswith(f"{release_record.METRICS}."):
            found.setdefault(release_record.METRICS, {})[key.partition(".")[2]] = _value(text)
        else:
            found[key] = text if key in release_record.TEXT_KEYS else _value(text)
    return found


def from_git(path: Path) -> dict[str, Any]:
    """`commit` (and `dirty` if there are changes) and `author` of the repository in which `path` lies; UsageError."""
    folder = path if path.is_dir() else path.absolute().parent
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    found: dict[str, Any] = {
        "commit": commit,
        "author": _git(folder, "show", "--no-patch", "--format=%an <%ae>", "HEAD"),
    }
    if _git(folder, "status", "--porcelain", "--untracked-files=no"):
        found["dirty"] = True
    return found


def joined(general: dict[str, Any], particular: dict[str, Any]) -> dict[str, Any]:
    """Both, where `particular` wins; their metrics are put together."""
    key = release_record.METRICS
    metrics = [each[key] for each in (general, particular) if isinstance(each.get(key), dict)]
    return {**general, **particular, **({key: {**metrics[0], **metrics[1]}} if len(metrics) == 2 else {})}


def unusual_keys(metadata: dict[str, Any]) -> list[str]:
    """A sentence for each key that looks like a slip of a known one."""
    known = (*release_record.TEXT_KEYS, release_record.METRICS)
    slips = {key: near_names.near(key, known) for key in metadata if key not in known}
    slips["license"] = "licence" if "license" in metadata else None
    return [f"the metadata has the key {key!r}; {meant!r} is the usual one." for key, meant in slips.items() if meant]


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise UsageError(f"git is not installed here: {_NOT_GIT}") from None
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise UsageError(f"git does not answer ({error}): {_NOT_GIT}") from error
    if done.returncode != 0:
        raise UsageError(f"{folder} is in no git repository with a commit: {_NOT_GIT}")
    return done.stdout.strip()
