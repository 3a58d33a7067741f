"""`modelsync environment`: from a lock to a folder that may lie anywhere, the same each time; what is wrong is said."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from examples.environment.little_wheels import lock_of, make_wheel
from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.cli import app
from modelsync_server.environment.building import _carry, _lay_out, build, finish, made_at
from modelsync_server.environment.document import Environment, Target
from modelsync_server.environment.wheels import _read
from modelsync_server.publish.artifact import snapshot
from modelsync_server.requirements import requirements_of

RELEASE = f"{sys.version_info.major}.{sys.version_info.minor}"
FUTURE = '"""Words."""\nfrom __future__ import annotations\nimport ore\nprint("future", ore.VERSION)\n'


def wheels(folder: Path, version: str = "1.0") -> list[Path]:
    ore: dict[str, str | bytes] = {
        "ore/__init__.py": f"VERSION = {version!r}\n", "ore/__pycache__/old.cpython-311.pyc": b"\0" * 40,
        "ore/main.py": "import sys, ore\ndef main():\n    print(ore.VERSION, *sys.argv[1:])\n",
        "ore/tests/test_ore.py": "assert 0\n", "ore/data/table.txt": "1\n",
        f"ore-{version}.data/scripts/ore-script": "#!python\nimport ore\nprint('script', ore.VERSION)\n",
        f"ore-{version}.data/scripts/ore-future": f"#!python\n{FUTURE}",
        f"ore-{version}.data/data/share/ore/note": "a note\n",
    }  # fmt: skip
    return [
        make_wheel(
            folder, "ore", version, ore, requires=["lode>=2; python_version >= '3'"], scripts={"ore": "ore.main:main"}
        ),
        make_wheel(folder, "lode", "2.1", {"lode.py": "import ore\n"}, requires=["absent; extra == 'more'"]),
    ]


def made(folder: Path, out: str = "out", **options: object) -> Path:
    lock = lock_of(folder / "lock.txt", wheels(folder / "wheels"))
    build(lock, folder / out, from_folder=folder / "wheels", **options)  # type: ignore[arg-type]
    return folder / out


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("original"), imports=["lode"])


@pytest.fixture
def out(original: Path, tmp_path: Path) -> Path:
    """An environment of the test's own, at another place than it was made at."""
    shutil.copytree(original, tmp_path / "out", symlinks=True)
    return tmp_path / "out"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env={**kept, **environment}, timeout=240
    )


def files(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Everything that an artifact's digest depends on."""
    return {
        str(path.relative_to(folder)): (0, str(path.readlink()))
        if path.is_symlink()
        else (path.stat().st_mode, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_the_same_lock_gives_the_same_bytes_and_nothing_names_this_machine(tmp_path: Path, original: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    old = os.umask(0o077)
    try:
        other = made(tmp_path / "elsewhere", "second", imports=["lode"])
    finally:
        os.umask(old)
    one, first = original, files(original)
    assert first == files(other)
    assert not [path for path in first if path.endswith((".pyc", "INSTALLER", "REQUESTED", "direct_url.json"))]
    for path, (mode, content) in first.items():
        data = content.encode() if isinstance(content, str) else content
        assert str(tmp_path.parent).encode() not in data and sys.prefix.encode() not in data, path
        assert mode == 0 or mode & 0o777 in (0o644, 0o755), path
    record = (one / f"lib/python{RELEASE}/site-packages/ore-1.0.dist-info/RECORD").read_text().splitlines()
    assert record == sorted(record) and any("../../../bin/ore," in line for line in record)
    assert f"ore/data/table.txt,,{len('1' + chr(10))}" in record
    assert (one / "share/ore/note").read_text() == "a note\n"


def test_it_runs_wherever_it_lies_and_sees_its_own_packages_only(tmp_path: Path, out: Path) -> None:
    place = tmp_path / "models" / "a place" / "versions"
    place.parent.mkdir(parents=True)
    out.rename(place)
    link = place.with_name("current")
    link.symlink_to("versions")
    done = run(link / "bin" / "python", "-c", "import ore, sys; print(ore.__file__, sys.executable)")
    assert done.stdout.split("\n")[0] == (
        f"{place}/lib/python{RELEASE}/site-packages/ore/__init__.py {place}/bin/python"
    ), done.stderr
    lacks = run(place / "bin" / "python3", "-c", "import pytest", MODELSYNC_PYTHON=sys.executable)
    assert lacks.returncode == 1 and "No module named 'pytest'" in lacks.stderr, "the interpreter's own package"
    for script, said in (("ore", "1.0 a b"), ("ore-script", "script 1.0"), ("ore-future", "future 1.0")):
        done = run(link / "bin" / script, *(("a", "b") if script == "ore" else ()))
        assert done.stdout.strip() == said, done.stderr
    child = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import ore; print(ore.VERSION)'], check=True)"
    )
    assert run(place / "bin" / "python", "-c", child).stdout == "1.0\n"
    assert run(place / "bin" / "python", "-c", "import os; print(os.environ.get('PYTHONPATH'))").stdout == "None\n"
    assert run(place / "bin" / "check-environment").returncode == 0
    assert not list(place.rglob("*.pyc")), "a version's folder stays what was signed"


def test_another_environment_on_the_path_is_not_taken_for_an_interpreter(out: Path) -> None:
    done = run(out / "bin" / "python", "-c", "print(1)", PATH=f"{out}/bin:{os.environ['PATH']}")
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize("option", ["-I", "-E", "-S", "-sE"])
def test_options_that_would_hide_the_packages_are_refused(out: Path, option: str) -> None:
    done = run(out / "bin" / "python", option, "-c", "import ore")
    assert done.returncode == 5 and "leave them out" in done.stderr
    assert run(out / "bin" / "python", "-Wignore::ImportWarning", "-c", "import ore; '-I'", "-E").returncode == 0


@pytest.mark.parametrize("options", [("-W", "ignore", "-E"), ("-X", "utf8", "-I"), ("-uW", "ignore", "-S")])
def test_options_behind_a_value_are_seen_too(out: Path, options: Sequence[str]) -> None:
    done = run(out / "bin" / "python", *options, "-c", "import ore")
    assert done.returncode == 5 and "leave them out" in done.stderr
    assert run(out / "bin" / "python", "-W", "-E", "-c", "import ore").returncode == 0, "a value, and no option"


@pytest.mark.parametrize("name", ["a quo'te\" $(touch x)", "new\nline", "-x *"])
def test_it_runs_in_folders_of_any_name_and_says_in_which_it_can_not(tmp_path: Path, out: Path, name: str) -> None:
    place = out.rename(tmp_path / name)
    done = run(place / "bin" / "ore", "x", PYTHONHOME="/nowhere", PYTHONPATH="/nowhere")
    assert done.stdout == "1.0 x\n", done.stderr
    done = run(place.rename(tmp_path / f"{name}:colon") / "bin" / "python", "-c", "import ore")
    assert done.returncode == 5 and "colon" in done.stderr


def test_the_wrong_python_is_named_in_one_sentence(tmp_path: Path) -> None:
    other = "3.12" if RELEASE == "3.11" else "3.11"
    out = made(tmp_path, target=Target(other))
    done = run(out / "bin" / "python", "-c", "1", MODELSYNC_PYTHON=sys.executable)
    assert done.returncode == 5 and f"is for Python {other}" in done.stderr and done.stderr.count("\n") == 1
    assert "is no program" in run(out / "bin" / "python", MODELSYNC_PYTHON="/nowhere/python").stderr
    nothing = run("/bin/sh", out / "bin" / "python", PATH=str(tmp_path))
    assert nothing.returncode == 5


def test_extension_modules_of_another_machine_are_named_in_one_sentence(tmp_path: Path) -> None:
    tag = f"cpython-{RELEASE.replace('.', '')}-sparc-linux-gnu"
    wheel = make_wheel(tmp_path / "wheels", "native", "1.0", {f"native.{tag}.so": b"\x7fELF"})
    lock = lock_of(tmp_path / "lock.txt", [wheel])
    assert build(lock, tmp_path / "out", from_folder=tmp_path / "wheels").tag == tag
    done = run(tmp_path / "out" / "bin" / "check-environment", MODELSYNC_PYTHON=sys.executable)
    assert done.returncode == 5 and f"is built for {tag}" in done.stderr and done.stderr.count("\n") == 1


def test_a_check_finds_what_is_missing_cut_short_or_does_not_import(tmp_path: Path, out: Path) -> None:
    site = out / f"lib/python{RELEASE}/site-packages"
    check = out / "bin" / "check-environment"
    assert run(check).returncode == 0
    (site / "lode.py").rename(tmp_path / "lode.py")
    assert "lode.py is missing" in run(check).stderr
    (site / "lode.py").write_text("import ore, absent\n")
    assert "of another size" in run(check).stderr
    (site / "lode.py").write_text("impor ore\n\n"[:11])
    assert run(check).returncode == 3
    (site / "lode.py").write_text("impor ore,\n"[:11])
    assert "importing lode fails" in run(check).stderr
    shutil.rmtree(site / "ore-1.0.dist-info")
    assert "the package ore is missing" in run(check).stderr


def test_what_is_excluded_is_gone_from_the_record_too(tmp_path: Path) -> None:
    out = made(tmp_path, exclude=["*/tests/*", "*/METADATA"])
    site = out / f"lib/python{RELEASE}/site-packages"
    assert not (site / "ore" / "tests").exists() and (site / "ore-1.0.dist-info" / "METADATA").exists()
    assert "tests" not in (site / "ore-1.0.dist-info" / "RECORD").read_text()
    assert run(out / "bin" / "check-environment").returncode == 0


def bad_locks(folder: Path) -> dict[str, tuple[Sequence[str], str]]:
    ore, lode = lock_of(folder / "good.txt", wheels(folder / "wheels")).read_text().splitlines()[::-1]
    return {
        "no hashes": (["ore==1.0"], "is no lock"),
        "not pinned": ([ore.replace("==", ">="), lode], "is no lock"),
        "a package is missing": ([ore], "needs lode>=2"),
        "not there as a wheel": ([ore, lode, lode.replace("lode==2.1", "gold==1.0")], "gold"),
        "nothing": (["# nothing"], "pins nothing"),
    }


LONG = [pytest.param(what, marks=pytest.mark.long) for what in ("not pinned", "not there as a wheel", "nothing")]


@pytest.mark.parametrize("what", ["no hashes", "a package is missing", *LONG])
def test_a_lock_that_can_not_be_built_says_what_to_do_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    lines, sentence = bad_locks(tmp_path)[what]
    lock = tmp_path / "bad.txt"
    lock.write_text("\n".join(lines) + "\n")
    before = set(tmp_path.iterdir())
    with pytest.raises(UsageError, match=sentence):
        build(lock, tmp_path / "out", from_folder=tmp_path / "wheels")
    assert set(tmp_path.iterdir()) == before


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    lock = lock_of(tmp_path / "lock.txt", wheels(tmp_path / "wheels"))
    make_wheel(tmp_path / "wheels", "lode", "2.1", {"lode.py": "evil = 1\n"})
    with pytest.raises(RefusedError, match="another hash"):
        build(lock, tmp_path / "out", from_folder=tmp_path / "wheels")


BACKEND = """
import os
open({mark!r}, "w").write("ran")
def get_requires_for_build_wheel(settings=None): return []
def prepare_metadata_for_build_wheel(folder, settings=None):
    os.mkdir(folder + "/evil-1.0.dist-info")
    open(folder + "/evil-1.0.dist-info/METADATA", "w").write("Metadata-Version: 2.1\\nName: evil\\nVersion: 1.0\\n")
    return "evil-1.0.dist-info"
"""


@pytest.mark.parametrize("way", ["--no-binary", "address"])
def test_no_lock_makes_pip_run_a_packages_code(tmp_path: Path, way: str) -> None:
    mark, source = tmp_path / "ran", tmp_path / "wheels" / "evil-1.0.tar.gz"
    source.parent.mkdir()
    settings = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    metadata = "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n"
    files = {"PKG-INFO": metadata, "pyproject.toml": settings, "backend.py": BACKEND.format(mark=str(mark))}
    with tarfile.open(source, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"evil-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    named = "--no-binary :all:\nevil==1.0" if way == "--no-binary" else f"evil @ {source.as_uri()}"
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{named} --hash=sha256:{digest}\n")
    with pytest.raises(RefusedError, match="would run its code"):
        build(lock, tmp_path / "out", from_folder=source.parent)
    assert not mark.exists()


def rewritten(wheel: Path, **changed: bytes) -> None:
    """Give files of the wheel's dist-info other contents."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files |= {f"ore-1.0.dist-info/{name}": content for name, content in changed.items()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def damaged(wheel: Path, at: int, value: int, *, head: bytes = b"PK\x01\x02") -> None:
    data = bytearray(wheel.read_bytes())
    data[data.index(head) + at] = value
    wheel.write_bytes(data)


RECORD = b"ore.py,,\nore-1.0.dist-info/METADATA,,\nore-1.0.dist-info/WHEEL,,\nore-1.0.dist-info/RECORD,,\n"
STRANGE_WHEELS: dict[str, Callable[[Path], None]] = {
    "encrypted": lambda wheel: damaged(wheel, 8, 1),
    "method": lambda wheel: damaged(wheel, 10, 99),
    "damaged": lambda wheel: damaged(wheel, 38, 0, head=b"PK\x03\x04"),
    "record": lambda wheel: rewritten(wheel, RECORD=b"a" * 200_000 + b",,\n"),
    "record's bytes": lambda wheel: rewritten(wheel, RECORD=b"\xff,,\n"),
    "entry points": lambda wheel: rewritten(
        wheel,
        **{
            "entry_points.txt": b"[console_scripts]\nfoo\n",
            "RECORD": RECORD + b"ore-1.0.dist-info/entry_points.txt,,\n",
        },
    ),
    "a bomb that is read whole": lambda wheel: rewritten(wheel, LICENSE=bytes(2**24 + 1)),
}
STRANGE_FILES: dict[str, dict[str, str | bytes]] = {
    "leads out": {"../../../../escaped": b"x"},
    "absolute": {"/escaped": b"x"},
    "leads out of data": {"ore-1.0.data/data/../../../escaped": b"x"},
    "two lines": {"ore/a\nb.py": b"x"},
    "too long": {"a" * 300: b"x"},
    "file and folder": {"ore": b"x", "ore/b.py": b"x"},
    "the launcher's place": {"ore-1.0.data/data/bin/python/x": b"x"},
    "the launcher's room": {"ore-1.0.data/data/lib/modelsync/sitecustomize.py": b"x"},
    "the document's place": {"ore-1.0.data/data/environment.json/x": b"x"},
}


@pytest.mark.parametrize("what", [*STRANGE_WHEELS, *STRANGE_FILES])
def test_a_strange_wheel_is_refused_in_one_sentence_and_nothing_is_left(tmp_path: Path, what: str) -> None:
    """pip's half of it, which knows less, is left out: the wheel lies where pip would have put it."""
    wheel = make_wheel(tmp_path / "wheels", "ore", "1.0", STRANGE_FILES.get(what, {"ore.py": b"x = 1\n"}))
    if what in STRANGE_WHEELS:
        STRANGE_WHEELS[what](wheel)
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)

    def unpack() -> None:
        with made_at(inner / "out") as folder:
            _lay_out(_read(wheel), folder, site_of(folder), Target())
            _carry(folder, Target(), "")
            finish(folder, Environment(RELEASE, "device", "", None, {}, (), ()))

    with pytest.raises(UsageError) as refused:
        unpack()
    assert "\n" not in str(refused.value)
    assert not list(inner.iterdir()) and not list(tmp_path.rglob("escaped"))


def site_of(folder: Path) -> Path:
    site = folder / "lib" / f"python{RELEASE}" / "site-packages"
    site.mkdir(parents=True)
    return site


def test_a_package_for_another_python_and_a_folder_that_is_taken_are_refused(tmp_path: Path, out: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels", "young", "1.0", {"young.py": ""}, requires_python=">=3.99")
    lock = lock_of(tmp_path / "lock.txt", [wheel])
    with pytest.raises(UsageError, match=r"3\.99|young"):
        build(lock, tmp_path / "new", from_folder=tmp_path / "wheels")
    with pytest.raises(UsageError, match="is there already"):
        build(lock, out, from_folder=tmp_path / "wheels")
    assert (out / "environment.json").exists()


def test_the_command_says_what_it_made(tmp_path: Path) -> None:
    lock = lock_of(tmp_path / "lock.txt", wheels(tmp_path / "wheels"))
    command = ["environment", str(lock), str(tmp_path / "out"), "--wheels", str(tmp_path / "wheels")]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.output)
    assert document["packages"] == {"lode": "2.1", "ore": "1.0"} and document["interpreter"] == "device"
    assert document["files"] == len(files(tmp_path / "out")) - 2, "links are none"
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, UsageError)
    prefixed = CliRunner().invoke(app, [*command[:2], str(tmp_path / "o2"), "--prefix", "/opt"])
    assert isinstance(prefixed.exception, UsageError)


def needs(folder: Path) -> dict[str, str]:
    with snapshot(folder) as artifact:
        return requirements_of(artifact.manifest, artifact.stream)


def test_an_environment_requires_its_python_and_meets_what_models_beside_it_require(tmp_path: Path) -> None:
    sklearn: dict[str, str | bytes] = {"sklearn/__init__.py": "", "sklearn/old.pkl": b"\x80\x04csklearn.x\nY\n."}
    wheel = make_wheel(tmp_path / "wheels", "scikit_learn", "1.7.1", sklearn)
    lock = lock_of(tmp_path / "lock.txt", [wheel])
    build(lock, tmp_path / "out", from_folder=tmp_path / "wheels")
    assert needs(tmp_path / "out") == {"python": f"=={RELEASE}.*"}, "test data of packages are no models"
    model = tmp_path / "out" / "model.pkl"
    model.write_bytes(b"csklearn.tree\nT\n}(V_sklearn_version\nV1.7.1\nu.")
    assert needs(tmp_path / "out") == {"python": f"=={RELEASE}.*"}
    model.write_bytes(b"csklearn.tree\nT\n}(V_sklearn_version\nV1.7.2\nu.")
    with pytest.raises(UsageError, match=r"model\.pkl needs scikit-learn ==1\.7\.2.*has 1\.7\.1"):
        needs(tmp_path / "out")
