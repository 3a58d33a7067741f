"""Stands for Custom Vision: the two calls of its training API that exports need, and the download of what was exported.

An export is made when it is asked for and done at the next look, as there; its address carries its own access. Prints
{"url"} when it is ready. Source: https://learn.microsoft.com/rest/api/customvision/training, v3.3.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

_BASE = "/customvision/v3.3/training/projects/{project}/iterations/{iteration}/export"


class Exports:
    """What was asked to be exported. `folder`: ITERATION-PLATFORM.zip for all that there is."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self._asked: dict[tuple[str, str], dict[str, Any]] = {}
        self._open: dict[str, Path] = {}

    def _allowed(self, request: web.Request) -> str:
        if not secrets.compare_digest(request.headers.get("Training-Key", ""), self._key):
            raise web.HTTPUnauthorized(text='{"code": "Unauthorized", "message": "Invalid training key."}')
        return request.match_info["iteration"]

    async def begin(self, request: web.Request) -> web.Response:
        """ExportIteration."""
        iteration, platform = self._allowed(request), request.query.get("platform", "")
        if (iteration, platform) in self._asked:
            raise web.HTTPBadRequest(text='{"code": "BadRequestIterationExists", "message": "It is exported already."}')
        found = {"platform": platform, "status": "Exporting", "downloadUri": None, "newerVersionAvailable": False}
        if flavor := request.query.get("flavor"):
            found["flavor"] = flavor
        self._asked[iteration, platform] = found
        return web.json_response(found, status=202)

    async def look(self, request: web.Request) -> web.Response:
        """GetExports."""
        iteration = self._allowed(request)
        found = [dict(each) for (asked, _), each in self._asked.items() if asked == iteration]
        for (asked, platform), each in self._asked.items():
            path = self._folder / f"{iteration}-{platform}.zip"
            if asked == iteration and each["status"] == "Exporting":
                each["status"] = "Done" if path.is_file() else "Failed"
                token = secrets.token_urlsafe(12)
                self._open[token] = path
                each["downloadUri"] = f"{request.url.origin()}/download/{path.name}?sig={token}"
        return web.json_response(found)

    async def download(self, request: web.Request) -> web.FileResponse:
        """The zip, for whoever has its address."""
        path = self._open.get(request.query.get("sig", ""))
        if path is None or path.name != request.match_info["name"]:
            raise web.HTTPForbidden
        return web.FileResponse(path)


async def serve(folder: Path, key: str, told: Callable[[str], object]) -> None:
    """Until cancelled; `told` its URL when it is ready."""
    exports, application = Exports(folder, key), web.Application()
    application.add_routes(
        [
            web.post(_BASE, exports.begin), web.get(_BASE, exports.look),
            web.get("/download/{name}", exports.download),
        ]
    )  # fmt: skip
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    told(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """`python -m examples.camera.stand_in`."""
    parser = argparse.ArgumentParser(description="Stands for Custom Vision's training API.")
    parser.add_argument("--exports", type=Path, required=True, help="folder of ITERATION-PLATFORM.zip")
    parser.add_argument("--key-file", type=Path, required=True, help="file with the training key")
    given = parser.parse_args()

    def told(url: str) -> None:
        print(json.dumps({"url": url}), flush=True)

    asyncio.run(serve(given.exports, given.key_file.read_text().strip(), told))


if __name__ == "__main__":
    main()
