"""From a lock's wheels to the folder: laid out as in a virtual environment, without an interpreter of its own."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server.environment import document, wheels
from modelsync_server.environment.document import Environment, Target
from modelsync_server.environment.relocating import TRAMPOLINE, relocate
from modelsync_server.environment.wheels import Wheel

CLASHES = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
"""What a disk says of names that can't be: a file that is a folder to another, too long, a link to itself."""

_EXTENSION = re.compile(r"\.(cpython-\d+[^.]*)\.so$")


def build(
    lock: Path,
    out: Path,
    *,
    target: Target | None = None,
    from_folder: Path | None = None,
    exclude: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Environment:
    """Make the environment that `lock` pins at `out`, which must not exist or be empty.

    The same wheels give the same bytes. `from_folder`: wheels are taken from there, and no index is asked.
    `exclude`: patterns of files within site-packages to leave out. `imports`: modules that a device
    imports before it switches.
    Nothing is left at `out` if it fails: UsageError, RefusedError (hashes), UnreachableError, LocalError.
    """
    target = Target() if target is None else target
    with made_at(out) as folder, tempfile.TemporaryDirectory(prefix="modelsync-wheels-") as scratch:
        found = wheels.fetch(lock, Path(scratch), target, from_folder)
        wheels.check_closed(found, target, lock)
        site = folder / "lib" / f"python{target.python}" / "site-packages"
        site.mkdir(parents=True)
        for wheel in found:
            _lay_out(wheel, folder, site, target)
        relocate(folder, site, exclude)
        tag = _tag(site)
        _carry(folder, target, tag)
        machine = next((wheel.machine for wheel in found if wheel.machine is not None), None)
        packages = {wheel.name: str(wheel.version) for wheel in found}
        return finish(folder, Environment(target.python, "device", tag, machine, packages, imports, ()))


@contextmanager
def made_at(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place if all goes well. UsageError if something is there."""
    out = out.absolute()
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UsageError(f"{out} is there already; give a folder that does not exist yet.")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} does not exist; make it first.")
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent)).resolve()
    try:
        folder = scratch / "environment"
        folder.mkdir()
        yield folder
        folder.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def finish(folder: Path, made: Environment) -> Environment:
    """Write environment.json; what was made, with its folders, files and bytes."""
    made = replace(made, folders=sorted(path.name for path in folder.iterdir()))
    own_place(folder, document.NAME)
    made.write(folder)
    (folder / document.NAME).chmod(0o644)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return replace(made, files=len(files), bytes=sum(path.stat().st_size for path in files))


def own_place(folder: Path, name: str) -> Path:
    """The place of a file of ours, with no file or link there any more; UsageError for a package's folder."""
    path = folder / name
    if path.is_dir() and not path.is_symlink():
        raise UsageError(f"a package brings the folder {name}, where the environment's own file belongs: leave it out.")
    path.unlink(missing_ok=True)
    return path


def carry_check(folder: Path) -> None:
    """Put `bin/check-environment` into the folder."""
    script = own_place(folder, "bin/check-environment")
    script.write_bytes(TRAMPOLINE + _device_file("check_environment.py"))
    script.chmod(0o755)


def _carry(folder: Path, target: Target, tag: str) -> None:
    """The launcher, what makes an interpreter the environment's own, the check."""
    inner, scripts = own_place(folder, "lib/modelsync"), folder / "bin"
    inner.mkdir()
    scripts.mkdir(exist_ok=True)
    (inner / "sitecustomize.py").write_bytes(_device_file("sitecustomize.py"))
    (inner / "expected").write_text(f"{target.python}\n{tag}\n", encoding="ascii")
    launcher = own_place(folder, "bin/python")
    launcher.write_bytes(_device_file("python.sh").replace(b"@PYTHON@", target.python.encode()))
    for name in ("python3", f"python{target.python}"):
        own_place(folder, f"bin/{name}").symlink_to("python")
    carry_check(folder)
    for path in (inner, scripts, launcher):
        path.chmod(0o755)
    for path in inner.iterdir():
        path.chmod(0o644)


def _device_file(name: str) -> bytes:
    return (resources.files("modelsync_server.environment") / "device" / name).read_bytes()


def _tag(site: Path) -> str:
    """In the names of extension modules, such as cpython-311-x86_64-linux-gnu; empty without any."""
    tags = {found[1] for path in site.rglob("*.so") if (found := _EXTENSION.search(path.name))}
    return min(tags, default="")


def _lay_out(wheel: Wheel, folder: Path, site: Path, target: Target) -> None:
    """Unpack a wheel as the specification wants it, with its scripts."""
    try:
        from installer import install
        from installer.destinations import SchemeDictionaryDestination
        from installer.exceptions import InstallerError
        from installer.records import InvalidRecordEntry
        from installer.sources import WheelFile
    except ImportError as error:
        raise LocalError("unpacking wheels needs `pip install 'modelsync-server[environment]'`.") from error
    schemes = {
        "purelib": str(site), "platlib": str(site), "scripts": str(folder / "bin"), "data": str(folder),
        "headers": str(folder / "include" / "site" / f"python{target.python}" / wheel.name),
    }  # fmt: skip
    # Of two packages that bring the same file the later one by name wins, as with pip, and always the same.
    destination = SchemeDictionaryDestination(schemes, "python", "posix", overwrite_existing=True)
    try:
        with WheelFile.open(wheel.path) as source, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of compiled files in wheels, which it leaves out too
            install(source, destination, {})
    except (InstallerError, InvalidRecordEntry, LookupError, AssertionError, *wheels.DAMAGE) as error:
        raise _damaged(wheel, error) from error
    except OSError as error:
        if error.errno not in CLASHES:
            raise
        raise _damaged(wheel, error.strerror) from error


def _damaged(wheel: Wheel, why: object) -> UsageError:
    said = " ".join(str(why).split()).rstrip(".") or type(why).__name__
    return UsageError(f"{wheel.path.name} can't be unpacked ({said:.160}); take another release of it.")
