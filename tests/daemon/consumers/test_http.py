"""Requests to an application: what is sent, what of an answer counts, and what is said when it is not good."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from modelsync_daemon.activate.consumer import NotServing, NotThere
from modelsync_daemon.consumers.http_request import HttpRequest

VALUES = {"name": "m", "version": "2", "generation": "7", "path": '/data/a "b" &c', "previous_path": ""}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """`/echo` gives back what came; `/say/STATUS` answers so; `/move` redirects; `/flood` never ends."""

    async def echo(request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        found = {
            "method": request.method,
            "query": dict(request.query),
            "body": body,
            "token": request.headers.get("X-T"),
        }
        return web.json_response(found)

    async def say(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]), text='{"serving": {"version": 2}}')

    async def move(_: web.Request) -> web.Response:
        raise web.HTTPFound("/say/200")

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(4096):
            await response.write(bytes(65536))
        return response

    app = web.Application()
    app.router.add_route("*", "/echo", echo)
    app.router.add_get("/say/{status}", say)
    app.router.add_get("/move", move)
    app.router.add_get("/flood", flood)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", tmp_path / "s"
    await runner.cleanup()


async def test_places_are_filled_and_quoted_as_each_part_needs(server: tuple[str, Path]) -> None:
    url, _ = server
    wanted = {
        "method": "PUT",
        "query.p": VALUES["path"],
        "body": json.dumps({"files": [VALUES["path"], "7"]}),
        "token": "v2",
    }
    request = HttpRequest(
        f"{url}/echo?p={{path}}",
        "PUT",
        {"X-T": "v{version}"},
        json={"files": ["{path}", "{generation}"]},
        expect=wanted,
    )
    with pytest.raises(NotServing, match="says body"):  # a value of `expect` has places too, and this one's are filled
        await HttpRequest(f"{url}/echo", "POST", body="{version}", expect={"body": "{generation}"}).send(VALUES, 5)
    await request.send(VALUES, 5)


async def test_a_socket_in_the_file_system(server: tuple[str, Path]) -> None:
    _, socket = server
    await HttpRequest("http://docker/say/200", unix=socket).send(VALUES, 5)
    with pytest.raises(NotThere, match="over /nowhere failed"):
        await HttpRequest("http://docker/say/200", unix=Path("/nowhere")).send(VALUES, 5)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (HttpRequest("/say/500"), "was answered with 500: {"),
        (HttpRequest("/say/202", status=(200,)), "was answered with 202"),
        (HttpRequest("/move"), "was answered with 302"),
        (HttpRequest("/say/200", contains='"version": {generation}'), "was answered without '\"version\": 7'"),
        (HttpRequest("/say/200", expect={"serving.version": "{generation}"}), "says serving.version = 2, and not 7."),
        (HttpRequest("/say/200", expect={"serving.none.x": "1"}), "says serving.none.x = null, and not 1."),
        (HttpRequest("/flood", contains="x"), "was answered without 'x'"),
        (HttpRequest("/flood?token=secret", expect={"a": "1"}), "/flood was not answered with JSON"),
    ],
)
async def test_what_is_not_good_is_said(server: tuple[str, Path], request_: HttpRequest, words: str) -> None:
    from dataclasses import replace

    with pytest.raises(NotServing) as caught:
        await replace(request_, url=server[0] + request_.url).send(VALUES, 5)
    assert words in str(caught.value) and "secret" not in str(caught.value)
    assert not isinstance(caught.value, NotThere)


async def test_what_is_good_is_good(server: tuple[str, Path]) -> None:
    for request in (
        HttpRequest(f"{server[0]}/say/404", status=(404, 200)),
        HttpRequest(f"{server[0]}/say/200", contains='"version": {version}', expect={"serving.version": "{version}"}),
    ):
        await request.send(VALUES, 5)
