"""Small wheels made here, so that the abridged story and tests need no index. They are what packaging tools make."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_EPOCH = (2026, 1, 1, 0, 0, 0)


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str | bytes],
    *,
    requires: Sequence[str] = (),
    scripts: Mapping[str, str] | None = None,
    tag: str = "py3-none-any",
    requires_python: str = "",
) -> Path:
    """A wheel in `folder`: `files` by path, `scripts` by name (module:function), `requires` as PEP 508 has it."""
    info = f"{name}-{version}.dist-info"
    words = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    words += [f"Requires-Python: {requires_python}\n"] if requires_python else []
    words += [f"Requires-Dist: {each}\n" for each in requires]
    members: dict[str, bytes] = {path: _bytes(content) for path, content in files.items()}
    members[f"{info}/METADATA"] = "".join(words).encode()
    members[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: story\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    if scripts:
        lines = "".join(f"{script} = {entry}\n" for script, entry in scripts.items())
        members[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}".encode()
    record = "".join(f"{path},{_digest(content)},{len(content)}\n" for path, content in sorted(members.items()))
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return made


def lock_of(path: Path, wheels: Sequence[Path]) -> Path:
    """A lock of these wheels: what pip-compile --generate-hashes writes, without an index's address."""
    lines = []
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    path.write_text("".join(sorted(lines)), encoding="utf-8")
    return path


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
