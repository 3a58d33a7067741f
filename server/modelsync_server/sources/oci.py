"""`oci:REGISTRY/REPOSITORY[:TAG|@DIGEST]`: model artifacts in an OCI registry: CNCF ModelPack, KitOps, ORAS.

A tag is resolved to its digest once, and everything is fetched by digest. Sources: OCI distribution-spec 1.1,
github.com/modelpack/model-spec, kitops.org.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yarl import URL

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_server.sources.archives import unpack
from modelsync_server.sources.client import Client, Digest
from modelsync_server.sources.port import Resolved, Scratch
from modelsync_server.sources.registry_login import RegistryLogin

_FORM = "write oci:REGISTRY/REPOSITORY:TAG or oci:REGISTRY/REPOSITORY@sha256:DIGEST"
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_ACCEPT = {"Accept": f"{_MANIFEST}, {_INDEX}, application/vnd.docker.distribution.manifest.v2+json"}
_MOST_MANIFEST_BYTES = 4 * caps.MIB
_FILE_PATH = "org.cncf.model.filepath"
_TITLE = "org.opencontainers.image.title"
_ORAS_FOLDER = "io.deis.oras.content.unpack"
_MODELPACK = re.compile(
    r"application/vnd\.cncf\.model\.(weight|weight\.config|doc|code|dataset)\.v1\.(raw|tar)(?:\+(gzip|zstd))?"
)
_KITOPS = re.compile(
    r"application/vnd\.kitops\.modelkit\.(model|modelpart|docs|code|dataset)\.v1\.(tar)(?:\+(gzip|zstd))?"
)
_WANTED = {"weight", "weight.config", "model", "modelpart", "code"}
"""Documents and data sets are no part of what a device serves."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob: its digest, size, name for people; `packed`: it is a tar, compressed by `compression` (may be empty)."""

    digest: str
    size: int
    name: str
    packed: bool
    compression: str


class OciArtifact:
    """One artifact of one repository."""

    def __init__(self, text: str) -> None:
        """`text` is what follows `oci:`; UsageError."""
        host, _, rest = text.removeprefix("//").partition("/")
        name, at, digest = rest.partition("@")
        repository, colon, tag = name.partition(":")
        good = _HOST.fullmatch(host) and _REPOSITORY.fullmatch(repository) and (not colon or _TAG.fullmatch(tag))
        if not good or (at and not _DIGEST.fullmatch(digest)):
            raise UsageError(f"'oci:{text:.160}' names no artifact: {_FORM}.")
        self._host, self._repository = host, repository
        self._reference = digest or tag or "latest"
        server = "registry-1.docker.io" if host == "docker.io" else host
        self._registry = URL(f"{'http' if _is_here(host) else 'https'}://{server}")

    @property
    def uri(self) -> str:
        """See Source."""
        sign = "@" if _DIGEST.fullmatch(self._reference) else ":"
        return f"oci:{self._host}/{self._repository}{sign}{self._reference}"

    async def resolve(self) -> Resolved:
        """The digest that the tag names now, by a HEAD where the registry says it there."""
        if _DIGEST.fullmatch(self._reference):
            return Resolved(self._host, self._reference)
        url = self._at("manifests", self._reference)
        async with self._client() as client:
            answer = await client.ask(url, method="HEAD", headers=_ACCEPT)
            digest = answer.headers.get("Docker-Content-Digest", "")
            if not _DIGEST.fullmatch(digest):
                answer = await client.ask(url, headers=_ACCEPT, limit=_MOST_MANIFEST_BYTES)
                digest = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        return Resolved(self._host, digest)

    async def fetch(self, resolved: Resolved, scratch: Scratch) -> Path:
        """See Source."""
        async with self._client() as client:
            layers = list(_layers(await self._manifest(client, resolved.revision)))
            wanted = [layer for layer in layers if layer.name]
            if not wanted:
                raise UsageError(f"{self.uri} holds no model: none of its layers is a weight or a named file.")
            scratch.announce(sum(layer.size for layer in wanted), len(wanted))
            found: list[str] = []
            for number, layer in enumerate(wanted):
                algorithm, _, value = layer.digest.partition(":")
                target = f"parts/{number}" if layer.packed else f"model/{layer.name}"
                blob = scratch.place(target)
                url = self._at("blobs", layer.digest)
                await client.download(url, blob, scratch, size=layer.size, digest=Digest(algorithm, value))
                if not layer.packed:
                    found.append(target)
                    continue
                found += await asyncio.to_thread(unpack, blob, layer.compression, scratch, "model")
                blob.unlink()
                scratch.count(-layer.size)
        if not found:
            raise UsageError(f"{self.uri} holds no model: its archives are empty.")
        return scratch.folder / (found[0] if len(found) == 1 else "model")

    async def _manifest(self, client: Client, digest: str) -> dict[str, Any]:
        for _ in range(2):
            url = self._at("manifests", digest)
            answer = await client.ask(url, headers=_ACCEPT, limit=_MOST_MANIFEST_BYTES)
            algorithm, _, value = digest.partition(":")
            if hashlib.new(algorithm, answer.body).hexdigest() != value:
                raise RefusedError(f"{self._host} sent another manifest than {digest[:19]}…: it is not believed.")
            try:
                document = json.loads(answer.body)
            except (ValueError, RecursionError):
                raise FormatError(f"{self.uri} has a manifest that is no JSON.") from None
            match document:
                case {"layers": list()}:
                    return dict(document)
                case {"manifests": [{"digest": str(digest)}]} if _DIGEST.fullmatch(digest):
                    continue
                case {"manifests": list()}:
                    raise UsageError(f"{self.uri} is an index of several artifacts: name one of them by its digest.")
            break
        raise FormatError(f"{self.uri} is no artifact: its manifest has no layers.")

    def _at(self, kind: str, reference: str) -> URL:
        return self._registry / "v2" / self._repository / kind / reference

    def _client(self) -> Client:
        login = RegistryLogin(self._registry, self._host, self._repository)
        return Client(login, hint=f"`docker login {self._host}` or `podman login {self._host}`, or check the name")


def _layers(manifest: dict[str, Any]) -> Iterator[Layer]:
    """The layers; those that are no part of the model without a name. FormatError."""
    seen: set[str] = set()
    for layer in manifest["layers"]:
        match layer:
            case {"mediaType": str(kind), "digest": str(digest), "size": int(size)} if _DIGEST.fullmatch(digest):
                pass
            case _:
                raise FormatError("the artifact's manifest has a layer without type, digest or size.")
        notes = layer.get("annotations")
        notes = notes if isinstance(notes, dict) else {}
        if size < 0 or digest in seen:
            continue  # the same blob twice is the same files twice
        seen.add(digest)
        yield _layer(kind, digest, size, notes, manifest.get("artifactType"))


def _layer(kind: str, digest: str, size: int, notes: dict[str, Any], artifact: object) -> Layer:
    named = notes.get(_FILE_PATH) or notes.get(_TITLE) or ""
    name = named.strip("/").removeprefix("./") if isinstance(named, str) else ""
    found = _MODELPACK.fullmatch(kind) or _KITOPS.fullmatch(kind)
    if found is not None:
        packed = found[2] == "tar"
        name = (name or "model") if found[1] in _WANTED else ""
        return Layer(digest, size, name, packed, found[3] or "")
    if kind.startswith("application/vnd.docker.ai.gguf.v3"):
        return Layer(digest, size, name or "model.gguf", False, "")
    if notes.get(_ORAS_FOLDER) == "true":
        return Layer(digest, size, name, True, "gzip")
    return Layer(digest, size, name, False, "")


def _is_here(host: str) -> bool:
    """Registries of this machine speak HTTP, as for docker and podman."""
    name = host.removeprefix("[").partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
