"""What an update costs from an OCI registry instead of a plain origin: `python -m bench.oci_origin`.

The registry is Debian's docker-registry. The objects of one real pull are recorded from our own origin and fetched
again as blobs by the daemon's own client: the least that a registry can cost, without TLS and tokens, by a
manifest that names only the objects of this one update.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from examples.demo.relay import Relay
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_server.library.store import create_store
from modelsync_server.origin.origin import application

ROOT = Path(__file__).parents[1]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = b"{}"
LIMIT = 1 << 30
PAIRS = (("anomaly", "examples/anomaly"), ("digits", "examples/digits/float32"))


async def ours(store: Path, trust: Path, data: Path, name: str, version: int) -> tuple[int, list[str]]:
    """Bytes on the wire, both ways, of a pull from our origin; and the paths that were asked for."""
    asked: list[str] = []

    @web.middleware
    async def record(request: web.Request, handler: object) -> web.StreamResponse:
        asked.append(request.path.removeprefix("/"))
        answer: web.StreamResponse = await handler(request)  # type: ignore[operator]
        return answer

    app = application(store)
    app.middlewares.append(record)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Relay("127.0.0.1", runner.addresses[0][1]) as relay:
            command = [str(Path(sys.executable).with_name("modelsyncd")), "pull", name, "--version", str(version)]
            place = ["--origin", f"http://127.0.0.1:{relay.port}", "--data", str(data), "--trust", str(trust), "--json"]
            child = await asyncio.create_subprocess_exec(*command, *place, stdout=subprocess.DEVNULL)
            assert await child.wait() == 0
            counts = relay.counts()
            return counts.up + counts.down, asked
    finally:
        await runner.cleanup()


async def registrys(store: Path, paths: list[str], folder: Path) -> int:
    """Bytes on the wire of fetching the same objects as blobs."""
    with registry(folder) as port:
        url = f"http://127.0.0.1:{port}/v2/m"
        async with aiohttp.ClientSession() as http:
            layers = [await _push(http, url, store / path, path) for path in paths]
            await _blob(http, url, EMPTY)
            config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": _digest(EMPTY), "size": len(EMPTY)}
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
            body = json.dumps(manifest, separators=(",", ":")).encode()
            async with http.put(f"{url}/manifests/v", data=body, headers={"Content-Type": MANIFEST}) as answer:
                assert answer.status == 201, await answer.text()
        async with Relay("127.0.0.1", port) as relay:
            async with Origin(f"http://127.0.0.1:{relay.port}/v2/m") as origin:
                async with await origin.send("GET", "manifests/v", {"Accept": MANIFEST}) as found:
                    assert json.loads(await found.read())["layers"]
                for each in layers:
                    await origin.get(f"blobs/{each['digest']}", LIMIT)
            counts = relay.counts()
            return counts.up + counts.down


@contextmanager
def registry(folder: Path) -> Iterator[int]:
    """Run Debian's docker-registry over `folder`; yields its port."""
    program = shutil.which("docker-registry")
    if program is None:
        sys.exit("docker-registry is not installed: apt install docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "registry.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
        f'http: {{addr: "127.0.0.1:{port}", secret: modelsync}}\n'
    )
    process = subprocess.Popen([program, "serve", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, "docker-registry does not start"
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def _push(http: aiohttp.ClientSession, url: str, file: Path, path: str) -> dict[str, object]:
    data = file.read_bytes()
    await _blob(http, url, data)
    named = {"org.opencontainers.image.title": path}
    return {"mediaType": "application/octet-stream", "digest": _digest(data), "size": len(data), "annotations": named}


async def _blob(http: aiohttp.ClientSession, url: str, data: bytes) -> None:
    async with http.post(f"{url}/blobs/uploads/") as answer:
        place = answer.headers["Location"]
    async with http.put(place, params={"digest": _digest(data)}, data=data) as answer:
        assert answer.status == 201, await answer.text()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def main() -> None:
    """Measure each pair and print a row."""
    print(f"{'update':10} {'objects':>8} {'our origin':>12} {'registry':>12} {'more':>8}")
    for name, folder in PAIRS:
        with tempfile.TemporaryDirectory() as text:
            work = Path(text)
            made = create_store(work / "store", keys=work / "keys")
            for version in (1, 2):
                made.store.publish(name, ROOT / folder / f"v{version}" / "model.onnx")
            asyncio.run(ours(work / "store", made.trust_file, work / "device", name, 1))
            mine, asked = asyncio.run(ours(work / "store", made.trust_file, work / "device", name, 2))
            there = [path for path in dict.fromkeys(asked) if (work / "store" / path).is_file()]
            theirs = asyncio.run(registrys(work / "store", there, work))
            print(f"{name:10} {len(there):8} {mine:12,} {theirs:12,} {theirs / mine - 1:8.1%}")


if __name__ == "__main__":
    main()
