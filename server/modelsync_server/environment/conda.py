"""From an archive of conda-pack to the folder: what its `conda-unpack` would do on the device is done here, once.

A device's version folder is what was signed and must not change, so prefixes are replaced before it is published.
Formats: https://conda.github.io/conda-pack/ (`conda_pack/core.py`, `prefixes.py` of 0.9). Nothing of it is executed.
"""

from __future__ import annotations

import ast
import json
import lzma
import re
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Self

from modelsync_protocol import caps
from modelsync_protocol.errors import UsageError
from modelsync_server.environment.building import CLASHES, carry_check, finish, made_at
from modelsync_server.environment.document import Environment
from modelsync_server.environment.relocating import make_relative, relocate

SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_ARCH = {"linux-64": "x86_64", "linux-32": "i686", "linux-aarch64": "aarch64", "linux-armv7l": "armv7l"}
_ARCH |= {"linux-ppc64le": "ppc64le", "linux-s390x": "s390x", "linux-riscv64": "riscv64"}
_PLACE = re.compile(r"/[^\0-\x1f\ud800-\udfff]+")
_UNPACK = ("conda-unpack", "conda_unpack_progress.py")
_SITE = re.compile(r"lib/python(3\.\d+)/site-packages")
_MOST_BYTES, _MOST_MEMBERS = caps.MAX_ARTIFACT_BYTES, 10 * caps.MAX_FILES
_WORD = re.compile(r"[A-Za-z0-9._+!~-]{1,200}")


def is_packed(path: Path) -> bool:
    """Whether `path` is named as conda-pack names its archives."""
    return path.name.endswith(SUFFIXES)


def unpack(
    archive: Path, out: Path, *, prefix: str | None, exclude: Sequence[str] = (), imports: Sequence[str] = ()
) -> Environment:
    """Make the environment of conda-pack's `archive` at `out`, which must not exist or be empty.

    `prefix`: where it will lie on devices; what holds the place of it in files is replaced by that. Only needed if
    there are such files beside scripts. UsageError; nothing is left at `out` then.
    """
    with made_at(out) as folder:
        try:
            return _unpacked(archive, folder, prefix, exclude, imports)
        except OSError as error:
            if error.errno not in CLASHES:
                raise
            where = str(error.filename).removeprefix(f"{folder}/")
            raise UsageError(
                f"{archive} can't be unpacked ({where!r:.100}: {error.strerror}); it is not conda-pack's."
            ) from error


def _unpacked(
    archive: Path, folder: Path, prefix: str | None, exclude: Sequence[str], imports: Sequence[str]
) -> Environment:
    _extract(archive, folder)
    if not (folder / "conda-meta").is_dir():
        raise UsageError(f"{archive} holds no conda-meta: it is no archive that conda-pack made.")
    packages, arch = _packages(folder)
    release, site = _site(folder)
    records = _records(folder)
    for name in _UNPACK:
        (folder / "bin" / name).unlink(missing_ok=True)
    relocate(folder, site, exclude)
    _replace(folder, records, prefix, archive)
    (folder / "conda-meta" / "history").unlink(missing_ok=True)
    if site is not None:
        carry_check(folder)
    made = Environment(release, "included", "", arch, packages, imports if site is not None else (), ())
    return finish(folder, made)


def _extract(archive: Path, folder: Path) -> None:
    """Files and folders first and then the links: nothing is ever written through one of the archive's links.

    tarfile's own filter is not relied on: links that are longer than a path may be lead out of it (CVE-2025-4517).
    """
    links, left, count = dict[PurePosixPath, str](), _MOST_BYTES, 0
    try:
        with tarfile.open(archive, tarinfo=_Member) as packed:
            for member in packed:
                left, count = left - member.size, count + 1
                if left < 0 or count > _MOST_MEMBERS:
                    raise UsageError(f"{archive} holds more than {_MOST_MEMBERS:,} files or {_MOST_BYTES:,} bytes.")
                if member.issym():
                    links[_inner(archive, member.name)] = member.linkname
                else:
                    _place(archive, packed, member, folder)
    except FileNotFoundError as error:
        raise UsageError(f"{archive} does not exist; give the archive that conda-pack made.") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise UsageError(f"{archive} can't be unpacked ({error}); pack it again.") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise UsageError(f"{archive} can't be unpacked ({error}); pack it again.") from error
    for name, target in links.items():
        if any(parent in links for parent in name.parents):
            raise UsageError(f"{archive} has {str(name)!r:.80} behind a link; it is no archive that conda-pack made.")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
        make_relative(folder / name, folder)


def _place(archive: Path, packed: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = folder / _inner(archive, member.name)
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if member.islnk() and (known := folder / _inner(archive, member.linkname)).is_file():
        path.hardlink_to(known)
    elif member.isreg():
        content = packed.extractfile(member)
        assert content is not None  # it is a file
        with path.open("xb") as out:
            shutil.copyfileobj(content, out, caps.MIB)
        path.chmod(0o755 if member.mode & 0o100 else 0o644)
    else:
        raise UsageError(f"{archive} has {member.name!r:.80}, which is no file, folder or link; pack it again.")


def _inner(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(f"{archive} has {name!r:.80}, which leads out of it; it is no archive that conda-pack made.")
    return path


class _Member(tarfile.TarInfo):
    """tarfile reads the headers of long names whole: here they are short."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if not (found.isreg() or found.isdir() or found.issym() or found.islnk()) and found.size > caps.MIB:
            raise tarfile.ReadError("a header is too long")
        return found


def _packages(folder: Path) -> tuple[dict[str, str], str | None]:
    """Versions by name, and the architecture; conda's own words are made the same on every machine."""
    packages, arch = dict[str, str](), None
    for path in sorted((folder / "conda-meta").glob("*.json")):
        try:
            words: dict[str, Any] = json.loads(path.read_bytes())
            name, version = words["name"], words["version"]
            if not _WORD.fullmatch(name) or not _WORD.fullmatch(version):
                raise ValueError("its name or version is none")
            packages[name] = version
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"conda-meta/{path.name} is damaged ({error}); pack the environment again.") from error
        arch = arch or _ARCH.get(str(words.get("subdir")))
        for key in ("extracted_package_dir", "package_tarball_full_path", "link", "timestamp_installed"):
            words.pop(key, None)
        path.write_text(json.dumps(words, indent=1, sort_keys=True) + "\n")
    return packages, arch


def _site(folder: Path) -> tuple[str, Path | None]:
    """Python's release and site-packages; an empty text and None without a Python (an environment of R, say)."""
    for path in sorted(folder.glob("lib/python3.*/site-packages")):
        found = _SITE.fullmatch(path.relative_to(folder).as_posix())
        if found is not None and not path.parent.is_symlink():
            return found[1], path
    return "", None


def _records(folder: Path) -> list[tuple[PurePosixPath, bytes, bool]]:
    """(path, what holds the prefix's place, whether the file is binary), read from `bin/conda-unpack`'s text."""
    script = folder / "bin" / "conda-unpack"
    if not script.is_file():
        return []  # packed with --dest-prefix
    found: object = []
    try:
        for node in ast.walk(ast.parse(script.read_bytes())):
            if isinstance(node, ast.Assign) and any(getattr(n, "id", "") == "_prefix_records" for n in node.targets):
                found = ast.literal_eval(node.value)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # all of these are how Python's parser gives up
        found = None
    records = []
    for each in found if isinstance(found, list) else [found]:
        match each:
            case (str(path), str(placeholder), ("text" | "binary") as mode) if _PLACE.fullmatch(placeholder):
                inner = PurePosixPath(path)
                if inner.is_absolute() or ".." in inner.parts:
                    raise UsageError(f"bin/conda-unpack names {path!r:.80}, which is outside of the environment.")
                records.append((inner, placeholder.encode(), mode == "binary"))
            case _:
                raise UsageError("bin/conda-unpack is not what conda-pack writes; pack the environment again.")
    return records


def _replace(
    folder: Path, records: Sequence[tuple[PurePosixPath, bytes, bool]], prefix: str | None, archive: Path
) -> None:
    left = [record for record in records if (folder / record[0]).is_file() and record[1] in _content(folder, record[0])]
    if not left:
        return
    if prefix is None:
        raise UsageError(
            f"{len(left)} files of {archive.name} name the folder that they lie in (first {left[0][0]}): say where "
            "that will be on devices, such as --prefix /var/lib/modelsync/models/NAME/current."
        )
    if not prefix.startswith("/") or "\0" in prefix:
        raise UsageError(f"--prefix {prefix} is no absolute path.")
    for path, placeholder, binary in left:
        content = _content(folder, path)
        mode = (folder / path).stat().st_mode
        changed = (
            _in_binary(content, placeholder, prefix, path) if binary else content.replace(placeholder, prefix.encode())
        )
        (folder / path).write_bytes(changed)
        (folder / path).chmod(mode & 0o777)


def _content(folder: Path, path: PurePosixPath) -> bytes:
    return (folder / path).read_bytes()


def _in_binary(content: bytes, placeholder: bytes, prefix: str, path: PurePosixPath) -> bytes:
    """The prefix in C strings, each filled up with zeros to its length, as conda does it."""
    new = prefix.encode()
    if len(new) > len(placeholder):
        raise UsageError(
            f"--prefix has {len(new)} bytes, and {path} has room for {len(placeholder)}: take a shorter one."
        )

    def filled(found: re.Match[bytes]) -> bytes:
        text = found[0].replace(placeholder, new)
        return text + b"\0" * (len(found[0]) - len(text))

    return re.sub(re.escape(placeholder) + rb"[^\0]*?\0", filled, content)
