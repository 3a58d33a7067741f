"""OCI images as `docker build` would make them: layers, a configuration and a manifest in an OCI layout on disk."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zstandard

from modelsync_bench.digests import add, entries

Compression = Literal["gzip", "zstd"]
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's blob: where it lies, its digest and size in bytes, and the digest of the tar in it."""

    path: Path
    digest: str
    size: int
    diff_id: str
    media_type: str


def layer(content: Path, below: str, compression: Compression, blobs: Path, *, built: int) -> Layer:
    """A layer with a file or tree at `below`/…; `built` is the time (epoch seconds) on its entries: a layer that is
    built again from the same files has another time and so another digest."""
    blobs.mkdir(parents=True, exist_ok=True)
    raw = blobs / "layer.tar"
    with tarfile.open(raw, "w", format=tarfile.GNU_FORMAT) as archive:
        if content.is_file():
            add(archive, content, f"{below}/model{content.suffix}", built)
        else:
            for entry in entries(content):
                add(archive, entry, f"{below}/{entry.relative_to(content).as_posix()}", built)
    packed = blobs / "layer.packed"
    with raw.open("rb") as source, packed.open("wb") as sink:
        if compression == "gzip":
            with gzip.GzipFile("", "wb", 6, sink, mtime=0) as out:
                shutil.copyfileobj(source, out, 1 << 20)
        else:
            zstandard.ZstdCompressor(level=3, threads=0).copy_stream(source, sink)
    diff_id = _digest(raw)
    raw.unlink()
    name = _digest(packed)
    final = blobs / name.removeprefix("sha256:")
    packed.replace(final)
    return Layer(final, name, final.stat().st_size, diff_id, f"{_LAYER}+{compression}")


def write_layout(layout: Path, layers: Sequence[Layer], tag: str) -> None:
    """Write an image of these layers as an OCI layout."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for one in layers:
        target = blobs / one.digest.removeprefix("sha256:")
        if not target.exists():
            shutil.copyfile(one.path, target)
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["python3", "/app/score.py"]},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "COPY"} for _ in layers],
    }
    media = "application/vnd.oci.image."
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{media}manifest.v1+json",
        "config": _put(blobs, configuration, f"{media}config.v1+json"),
        "layers": [{"mediaType": one.media_type, "digest": one.digest, "size": one.size} for one in layers],
    }
    entry = _put(blobs, manifest, f"{media}manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def blobs_of(layout: Path, tag: str) -> tuple[list[str], list[str]]:
    """(digests, diff ids) of the layers of an image in a layout."""
    index = json.loads((layout / "index.json").read_text())
    entry = next(
        one for one in index["manifests"] if one.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag
    )
    manifest = json.loads(_blob(layout, entry["digest"]).read_bytes())
    configuration = json.loads(_blob(layout, manifest["config"]["digest"]).read_bytes())
    return [one["digest"] for one in manifest["layers"]], configuration["rootfs"]["diff_ids"]


def unpack_last(layout: Path, tag: str, target: Path) -> None:
    """Lay the files of an image's last layer, which holds the artifact, into `target`."""
    blob = _blob(layout, blobs_of(layout, tag)[0][-1])
    with blob.open("rb") as file:
        magic = file.read(4)
    plain = target.with_name("layer.tar")
    with blob.open("rb") as source, plain.open("wb") as sink:
        if magic[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=source) as stream:
                shutil.copyfileobj(stream, sink, 1 << 20)
        else:
            zstandard.ZstdDecompressor().copy_stream(source, sink)
    with tarfile.open(plain) as archive:
        archive.extractall(target, filter="tar")
    plain.unlink()


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _put(blobs: Path, document: object, media_type: str) -> dict[str, object]:
    data = json.dumps(document, separators=(",", ":")).encode()
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
