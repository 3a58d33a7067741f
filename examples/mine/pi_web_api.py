"""A stand-in for AVEVA's PI Web API: the part of its documented REST form that the historian's client uses.

`GET /points?path=`, `POST /streams/{webId}/value`, `POST` and `GET /streams/{webId}/recorded`, `POST /batch`, with
Basic authentication and its defence against forged requests (X-Requested-With). Values are kept in
memory, one for each time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hmac
import json
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

SERVER = "MINE"
Json = dict[str, Any]


class Archive:
    """Points by WebId; a point's values by time."""

    def __init__(self, points: list[str]) -> None:
        self.names = {_web_id(point): point for point in points}
        self._values: dict[str, dict[str, Json]] = {web_id: {} for web_id in self.names}

    def answer(self, method: str, path: str, query: dict[str, str], content: Any) -> tuple[int, Any]:
        """(status, body) of a request that is no batch."""
        match (method, path.strip("/").split("/")):
            case ("GET", ["points"]):
                return self._point(query.get("path", ""))
            case ("POST", ["streams", web_id, "value"]) if web_id in self.names:
                return self._write(web_id, [content])
            case ("POST", ["streams", web_id, "recorded"]) if web_id in self.names:
                return self._write(web_id, content)
            case ("GET", ["streams", web_id, "recorded"]) if web_id in self.names:
                most = int(query.get("maxCount", "1000"))
                return 200, {"Items": [value for _, value in sorted(self._values[web_id].items())][:most]}
        return 404, {"Errors": [f"there is no {method} {path}"]}

    def _point(self, path: str) -> tuple[int, Json]:
        server, _, name = path.removeprefix("\\\\").partition("\\")
        if server != SERVER or _web_id(name) not in self.names:
            return 404, {"Errors": [f"Unknown or invalid path '{path}'."]}
        return 200, {"WebId": _web_id(name), "Name": name, "Path": path}

    def _write(self, web_id: str, values: Any) -> tuple[int, Any]:
        if not isinstance(values, list) or not all(
            isinstance(value, dict) and "Timestamp" in value and "Value" in value for value in values
        ):
            return 400, {"Errors": ["a PITimedValue has Timestamp and Value"]}
        for value in values:
            self._values[web_id][value["Timestamp"]] = {
                "Timestamp": value["Timestamp"], "Value": value["Value"], "Good": bool(value.get("Good", True)),
                "Questionable": bool(value.get("Questionable", False)), "Substituted": False,
            }  # fmt: skip
        return 202, None


def application(archive: Archive, login: str) -> web.Application:
    """The service below /piwebapi."""
    wanted = "Basic " + base64.b64encode(login.encode()).decode()

    async def handle(request: web.Request) -> web.Response:
        if not hmac.compare_digest(request.headers.get("Authorization", ""), wanted):
            return web.json_response({"Errors": ["Authorization has been denied for this request."]}, status=401)
        if request.method != "GET" and "X-Requested-With" not in request.headers:
            return web.json_response({"Errors": ["the header X-Requested-With is missing"]}, status=400)
        content = json.loads(await request.read() or b"null")
        path = request.path.removeprefix("/piwebapi")
        if request.method == "POST" and path.strip("/") == "batch":
            answers: Json = {}
            for name, part in content.items():
                resource = urlsplit(part["Resource"])
                query = dict(pair.partition("=")[::2] for pair in resource.query.split("&"))
                inner = resource.path.removeprefix("/piwebapi")
                status, body = archive.answer(part["Method"], inner, query, part.get("Content"))
                answers[name] = {"Status": status, "Headers": {}, "Content": body if body is not None else ""}
            return web.json_response(answers, status=207)
        status, body = archive.answer(request.method, path, dict(request.query), content)
        return web.json_response(body, status=status) if body is not None else web.Response(status=status)

    made = web.Application(client_max_size=1 << 24)
    made.router.add_route("*", "/piwebapi/{rest:.*}", handle)
    return made


def _web_id(point: str) -> str:
    return "F1" + base64.urlsafe_b64encode(point.encode()).decode().rstrip("=")


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Stands in for PI Web API.")
    parser.add_argument("--points", required=True, help="names of the points, separated by commas")
    parser.add_argument("--login", type=Path, required=True, help="file with user:password")
    given = parser.parse_args()
    login = given.login.read_text().strip()
    runner = web.AppRunner(application(Archive(given.points.split(",")), login), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}/piwebapi"}), flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
