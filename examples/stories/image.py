"""The original way: a container image for each model, built, served and pulled, with every byte counted.

Layers are built as `docker build` does (modelsync-bench's), kept by a registry that speaks the read half of the OCI
distribution API, and pulled as container engines do: manifest, configuration, and the layers that are not there yet.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from examples.demo.relay import Relay
from modelsync_bench.images import Layer, layer, write_layout

_FIRST_BUILD = 1_767_225_600
_DAY = 86_400
_cache: dict[tuple[Path, str, int, Path], Layer] = {}
"""The build cache of this process: layers by (content, place, build time, folder)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is built of, from below: (folder or file, where it lies in the image) for each layer."""

    layers: Sequence[tuple[Path, str]]


def build(recipe: Recipe, work: Path, tag: str, *, day: int, kept: int = 0) -> Path:
    """Build an image in an OCI layout, which is returned. The first `kept` layers come from the build cache (day 0).

    A layer that is built again has other times on its entries and so another digest, though its files are the same:
    that is what a clean build machine makes.
    """
    made: list[Layer] = []
    for number, (content, below) in enumerate(recipe.layers):
        built = _FIRST_BUILD + (0 if number < kept else day * _DAY)
        key = (content, below, built, work)
        if number >= kept or key not in _cache:
            _cache[key] = layer(content, below, "gzip", work / "blobs", built=built)
        made.append(_cache[key])
    layout = work / tag
    shutil.rmtree(layout, ignore_errors=True)
    write_layout(layout, made, tag)
    return layout


class Registry:
    """`async with Registry() as registry:` serves layouts; the line to it is a relay that counts."""

    def __init__(self) -> None:
        self._layouts: dict[str, Path] = {}
        self._runner: web.AppRunner | None = None
        self.line: Relay

    def push(self, layout: Path, tag: str) -> None:
        """Have the image of `layout` under `tag`."""
        self._layouts[tag] = layout

    async def __aenter__(self) -> Registry:
        application = web.Application()
        application.router.add_get("/v2/model/manifests/{tag}", self._manifest)
        application.router.add_get("/v2/model/blobs/{digest}", self._blob)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        address = self._runner.addresses[0]
        self.line = await Relay("127.0.0.1", address[1]).__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.line.__aexit__(None, None, None)
        assert self._runner is not None
        await self._runner.cleanup()

    async def pull(self, tag: str, device: Path) -> int:
        """Pull `tag` into the folder `device`, which keeps layers by digest; the bytes on the line, both directions."""
        begin = self.line.counts()
        device.mkdir(parents=True, exist_ok=True)
        base = f"http://127.0.0.1:{self.line.port}/v2/model"
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            async with session.get(f"{base}/manifests/{tag}") as answer:
                manifest = json.loads(await answer.read())
            for part in [manifest["config"], *manifest["layers"]]:
                target = device / part["digest"].replace(":", "-")
                if target.exists():
                    continue
                found, partial = hashlib.sha256(), target.with_suffix(".partial")
                async with session.get(f"{base}/blobs/{part['digest']}") as answer:
                    with partial.open("wb") as file:
                        async for piece in answer.content.iter_chunked(1 << 18):
                            found.update(piece)
                            file.write(piece)
                if f"sha256:{found.hexdigest()}" != part["digest"]:
                    raise ValueError(f"the layer {part['digest']} came damaged")
                partial.replace(target)
        spent = self.line.counts() - begin
        return spent.up + spent.down

    async def _manifest(self, request: web.Request) -> web.Response:
        layout = self._layouts.get(request.match_info["tag"])
        if layout is None:
            raise web.HTTPNotFound
        entry = json.loads((layout / "index.json").read_text())["manifests"][0]
        blob = layout / "blobs" / "sha256" / entry["digest"].partition(":")[2]
        return web.Response(body=blob.read_bytes(), content_type=entry["mediaType"])

    async def _blob(self, request: web.Request) -> web.FileResponse:
        name = request.match_info["digest"].partition(":")[2]
        for layout in self._layouts.values():
            blob = layout / "blobs" / "sha256" / name
            if name.isalnum() and blob.exists():
                return web.FileResponse(blob)
        raise web.HTTPNotFound
