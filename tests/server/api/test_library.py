"""The library as a training script uses it: `import modelsync_server`, open a store, publish, look."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import modelsync_server
from modelsync_protocol import bundle
from modelsync_protocol.errors import ModelsyncError, RefusedError, UsageError
from modelsync_server import Change, Store, create_store, open_store
from modelsync_server.store import open_store as open_objects
from modelsync_server.trust import Repository


def test_importing_it_loads_nothing_and_its_names_are_there() -> None:
    code = "import sys, modelsync_server; print(*sys.modules); print(*dir(modelsync_server))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, names = (set(line.split()) for line in done.stdout.splitlines())
    heavy = {"numpy", "tuf", "cryptography", "aiohttp", "typer", "rich", "asyncio", "zstandard", "securesystemslib"}
    assert not loaded & heavy
    assert not {name for name in loaded if name.startswith("modelsync_")} - {"modelsync_server"}
    assert names == set(modelsync_server.__all__)
    for name in modelsync_server.__all__:
        assert getattr(modelsync_server, name).__doc__, name
    with pytest.raises(AttributeError):
        _ = modelsync_server.nothing


def tensors(seed: int, moved: float = 0.0) -> bytes:
    """A safetensors file of three weights; `moved` changes the first of them by that share."""
    random = np.random.default_rng(seed)
    arrays = {name: random.standard_normal(shape).astype("<f4") for name, shape in SHAPES.items()}
    arrays["body.weight"] *= np.float32(1 + moved)
    header, offset = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values())


SHAPES = {"body.weight": (64, 128), "head.weight": (8, 64), "head.bias": (8,)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = create_store(tmp_path / "store", keys=tmp_path / "keys")
    assert made.trust_file == tmp_path / "keys" / "root.json" and made.trust_file.is_file()
    assert made.keys_folder == tmp_path / "keys"
    return open_store(tmp_path / "store", keys=tmp_path / "keys")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a safetensors model, one weight a little different; made once, for tests to copy."""
    folder = tmp_path_factory.mktemp("template")
    store = create_store(folder / "store", keys=folder / "keys").store
    for version, moved in ((1, 0.0), (2, 1e-3)):
        path = folder / "model.safetensors"
        path.write_bytes(tensors(1, moved))
        store.publish("net", path, metadata={"metrics": {"auc": 0.9 + version / 100}, "commit": f"c{version}"})
    return folder


@pytest.fixture
def filled(template: Path, tmp_path: Path) -> Store:
    """A copy of the template: store, keys and the newest model file."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return open_store(tmp_path / "store", keys=tmp_path / "keys")


def test_a_release_says_what_it_is_and_what_it_costs(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    release = filled.publish("net", str(path), metadata={"metrics": {"auc": np.float32(0.93)}})
    assert not release.fresh and release.version == 2 and release.files == 1 and release.size == path.stat().st_size
    assert release.digest == filled.models()[0].versions[1].digest
    (update,) = release.updates
    assert update.base == 1 and 0 < update.bytes < release.install_bytes and update.requests == 1
    assert release.metadata == {"metrics": {"auc": 0.93}}  # the same bytes, but more is said of them now
    assert filled.price("net", 2, base=1).bytes == update.bytes


def test_versions_are_listed_with_what_was_said_of_them(filled: Store) -> None:
    (model,) = filled.list()
    assert [version.metadata["commit"] for version in model.versions] == ["c1", "c2"]
    assert all(version.published_signed and version.published for version in model.versions)
    details = filled.show("net")
    assert details.version == model.versions[1] and details.newest and details.problem is None
    assert details.metadata["metrics"] == {"auc": 0.92}
    assert {signature.role for signature in details.signatures} == {"net", "targets", "snapshot", "timestamp", "root"}
    assert all(signature.keyids and signature.expires > datetime.now(UTC) for signature in details.signatures)


def test_show_gives_the_digests_that_sha256sum_gives(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    (tree / "large.bin").write_bytes(np.random.default_rng(5).bytes(300_000))
    (tree / "small.txt").write_text("small")
    (tree / "nothing").touch()
    (tree / "link").symlink_to("small.txt")
    store.publish("tree", tree)
    entries = {entry.path: entry for entry in store.show("tree").entries}
    assert entries.keys() == {"empty/", "large.bin", "small.txt", "nothing", "link"}
    files = [tree / name for name in ("large.bin", "small.txt", "nothing")]
    lines = subprocess.run(["sha256sum", *files], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [entries[path.name].sha256 for path in files] == [line.split()[0] for line in lines]
    assert entries["link"].link == "small.txt"
    quick = {entry.path: entry.sha256 for entry in store.show("tree", digests=False).entries}
    assert quick["large.bin"] is None and quick["small.txt"] == entries["small.txt"].sha256


def test_a_difference_names_the_tensor_that_changed_by_how_much_and_for_how_many_bytes(filled: Store) -> None:
    found = filled.diff("net", 1, 2)
    (tensor,) = found.tensors
    assert (tensor.name, tensor.change, found.same_tensors) == ("body.weight", Change.CHANGED, 2)
    assert tensor.old_shape == tensor.new_shape == SHAPES["body.weight"] and tensor.dtype == "f32"
    assert tensor.relative_rms == pytest.approx(1e-3, rel=0.01)
    random = np.random.default_rng(1).standard_normal(SHAPES["body.weight"])
    assert tensor.max_abs == pytest.approx(1e-3 * np.abs(random).max(), rel=0.01)
    assert tensor.changed_elements is not None and 0 < tensor.changed_elements <= tensor.elements == 64 * 128
    (file,) = found.files
    assert found.kind == "update" and found.header_bytes is not None and file.update_bytes is not None
    assert found.bytes == found.header_bytes + file.update_bytes
    assert tensor.update_bytes is not None and 0 < tensor.update_bytes <= file.update_bytes and tensor.encodings


def test_a_difference_tells_what_came_and_went(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("kept", "gone"):
        (tree / name).write_text(name)
    np.save(tree / "a.npy", np.arange(50_000, dtype="<i4"))
    store.publish("t", tree)
    (tree / "gone").unlink()
    (tree / "new").write_text("new")
    np.save(tree / "a.npy", np.arange(50_000, dtype="<i4") + 3)
    np.save(tree / "b.npy", np.full(100, np.nan, "<f8"))
    store.publish("t", tree)
    found = store.diff("t", 1, 2)
    assert {(file.path, file.change.value) for file in found.files} == {
        ("gone", "removed"),
        ("new", "added"),
        ("a.npy", "changed"),
        ("b.npy", "added"),
    }
    assert found.same_files == 1
    changes = {tensor.path: tensor for tensor in found.tensors}
    assert changes["a.npy"].max_abs == 3 and changes["a.npy"].changed_elements == 50_000
    assert changes["b.npy"].change is Change.ADDED and changes["b.npy"].relative_rms is None
    back = store.diff("t", 2, 1)
    assert back.kind != "update" and back.header_bytes is None
    assert {tensor.path for tensor in back.tensors if tensor.change is Change.REMOVED} == {"b.npy"}


def test_numbers_at_the_end_of_their_range_leave_the_document_readable(store: Store, tmp_path: Path) -> None:
    for sign in (1, -1):
        np.save(tmp_path / "w.npy", np.full(5000, sign * 1.7e308, "<f8"))
        store.publish("t", tmp_path / "w.npy")
    (tensor,) = store.diff("t", 1, 2).tensors
    assert (tensor.changed_elements, tensor.relative_rms, tensor.max_abs) == (5000, None, None)


def test_an_open_file_is_published_under_its_name(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(tensors(3))
    release = store.publish("net", io.BytesIO(tensors(3)), file_name="model.safetensors")
    assert store.publish("net", path).digest == release.digest
    for source, name, words in (
        (io.BytesIO(b"x"), None, "need a file name"),
        (io.BytesIO(b"x"), "a/b", "holds a '/'"),
        (io.BytesIO(b"x"), "..", "the file name"),
        (io.StringIO("x"), "a", "binary mode"),
        (path, "a", "has a name of its own"),
        (5, "a", "can't be published"),
    ):
        with pytest.raises(UsageError, match=words):
            store.publish("net", source, file_name=name)  # type: ignore[arg-type]  # that is what is refused


async def test_coroutines_and_notebooks_find_the_same_methods(filled: Store, tmp_path: Path) -> None:
    """A cell of a notebook runs inside an event loop: both ways must work there."""
    path = tmp_path / "other.bin"
    path.write_bytes(b"other")
    first, second = await asyncio.gather(filled.aio.publish("a", path), filled.aio.publish("b", path))
    assert (first.version, second.version) == (1, 1)
    assert filled.names() == await filled.aio.names() == ("a", "b", "net")
    public = {name for name in dir(Store) if not name.startswith("_")} - {"aio"}
    assert public <= set(dir(filled.aio)) | {"url"}


def test_records_survive_withdrawal_rotation_refresh_and_a_publisher_that_knows_none(
    filled: Store, tmp_path: Path
) -> None:
    async def publisher_of_before() -> None:
        """It rewrites the roles without a thought of records: what it does not know must stay."""
        repository = await Repository.open(open_objects(filled.url), str(tmp_path / "keys"))
        await repository.commit(lambda state: {"net", "net.archive"})

    filled.rotate_keys("online")
    filled.refresh()
    asyncio.run(publisher_of_before())
    assert filled.show("net", 1).metadata["commit"] == "c1"
    assert filled.withdraw("net", 2) == (2,)
    assert filled.show("net").version.version == 1
    assert filled.verify().problems == ()


def test_many_versions_keep_their_metadata_in_the_archive(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    for number in range(1, 13):
        path.write_bytes(b"%d" % number)
        store.publish("m", path, metadata={"number": number} if number % 2 else None)
    versions = store.models()[0].versions
    assert [version.metadata.get("number") for version in versions] == [n if n % 2 else None for n in range(1, 13)]
    assert [version.published_signed for version in versions] == [bool(n % 2) for n in range(1, 13)]


def test_metadata_costs_a_device_a_few_bytes_of_its_bundle(tmp_path: Path) -> None:
    """The archive's name in the snapshot, whatever is said and however often; a signed digest would be 35 a version."""
    sizes = {}
    for kind in ("with", "without"):
        store = create_store(tmp_path / kind, keys=tmp_path / f"keys-{kind}").store
        for number in range(1, 6):
            path = tmp_path / "m.bin"
            path.write_bytes(b"%d" % number * 100)
            said = {"text": "x" * 10_000, "number": number} if kind == "with" else None
            store.publish("m", path, metadata=said)
        data = (tmp_path / kind / "bundles" / "m").read_bytes()
        assert b"releases" not in bundle.decode(data).role
        sizes[kind] = len(data)
    assert sizes["with"] - sizes["without"] <= 16  # signatures and digests compress a few bytes differently


def test_damaged_and_lost_records_are_told_by_verify_and_leave_the_rest_usable(filled: Store) -> None:
    records = sorted((Path(filled.url) / "releases").iterdir())
    records[0].write_bytes(b"{}")
    records[1].unlink()
    problems = filled.verify().problems
    assert len(problems) == 2 and all("its metadata" in problem for problem in problems)
    assert [version.metadata for version in filled.models()[0].versions] == [{}, {}]
    assert filled.show("net").entries


def test_a_damaged_version_is_listed_and_shown_with_what_is_known(filled: Store) -> None:
    manifest = Path(filled.url) / "manifests" / filled.models()[0].versions[0].digest
    manifest.write_bytes(b"damaged")
    first, second = filled.models()[0].versions
    assert (first.size, first.install_bytes) == (None, None) and second.size
    found = filled.show("net", 1)
    assert found.problem is not None and found.metadata["commit"] == "c1" and found.entries == ()


def test_every_refusal_is_one_of_our_errors_and_names_what_was_meant(filled: Store, tmp_path: Path) -> None:
    calls = (
        (lambda: filled.show("nett"), UsageError, "did you mean 'net'"),
        (lambda: filled.show("net", 7), UsageError, "the nearest is 2"),
        (lambda: filled.diff("net", 1, 7), UsageError, "the nearest is 2"),
        (lambda: filled.withdraw("net", 7), UsageError, "the nearest is 2"),
        (lambda: filled.price("net", 5), UsageError, "the nearest is 2"),
        (lambda: filled.publish("net", tmp_path / "none"), UsageError, "does not exist"),
        (lambda: open_store(tmp_path / "nowhere"), UsageError, "modelsync init"),
        (lambda: create_store(tmp_path / "store"), UsageError, "already"),
        (lambda: open_store(filled.url, keys=tmp_path / "x").refresh(), RefusedError, "no signing keys"),
    )
    for call, kind, words in calls:
        with pytest.raises(ModelsyncError, match=words) as caught:
            call()
        assert type(caught.value) is kind


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def levels(store: Store, **options: datetime) -> dict[str, str]:
    """The worst level of each check."""
    order = ["ok", "warning", "problem"]
    found: dict[str, str] = {}
    for finding in store.doctor(**options).findings:
        found[finding.check] = max(found.get(finding.check, "ok"), finding.level.value, key=order.index)
    return found


def test_the_doctor_is_content_with_a_store_whose_offline_keys_are_away(filled: Store, keys: Path) -> None:
    assert {check for check, level in levels(filled).items() if level != "ok"} == {"offline keys"}
    (keys / "offline").rename(keys.parent / "safe")
    assert set(levels(filled).values()) == {"ok"}
    assert filled.doctor().exit_code == 0


@pytest.mark.parametrize(
    ("days", "worst"),
    [
        (-1, {"clock": "problem"}),
        (8, {"timestamp": "warning"}),
        (15, {"timestamp": "problem"}),
        (31, {"timestamp": "problem", "snapshot": "problem"}),
        (366, {"timestamp": "problem", "snapshot": "problem", "models": "problem"}),
        (800, dict.fromkeys(("timestamp", "snapshot", "models", "targets", "root"), "problem")),
    ],
)
def test_the_doctor_sees_time_run_out_role_by_role(filled: Store, days: int, worst: dict[str, str]) -> None:
    moment = datetime.now(UTC) + timedelta(days=days)
    found = levels(filled, now=moment)
    assert {check: found[check] for check in worst} == worst
    if days == 8:
        assert filled.doctor(now=moment).exit_code == 0
    elif days > 8:
        assert filled.doctor(now=moment).exit_code == 3
        assert all(
            f.mend and f.mend.startswith("modelsync refresh") for f in filled.doctor(now=moment).findings if f.code
        )


def test_the_doctor_mends_what_it_says_it_mends(filled: Store, keys: Path) -> None:
    """Each mend is a command: run as printed, the problem is gone."""
    (pem,) = (keys / "online").iterdir()
    pem.chmod(0o644)
    (finding,) = [finding for finding in filled.doctor().findings if finding.code]
    assert finding.check == "keys" and finding.code == 5 and finding.mend
    subprocess.run(finding.mend, shell=True, check=True)
    assert filled.doctor().exit_code == 0


def test_the_doctor_names_what_is_missing_or_damaged(filled: Store, keys: Path, tmp_path: Path) -> None:
    place = Path(filled.url)
    (place / "bundles" / "net").unlink()
    assert levels(filled)["bundles"] == "warning"
    for manifest in (place / "manifests").iterdir():
        manifest.write_bytes(b"")
    assert levels(filled)["formats"] == "problem"
    assert levels(open_store(place, keys=tmp_path / "none"))["keys"] == "problem"
    (place / "metadata" / "timestamp.json").write_bytes(b"{}")
    (only,) = filled.doctor().findings
    assert (only.check, only.code) == ("store", 3)
    assert filled.doctor().exit_code == 3
