"""The REST of configurations (api-version 2021-04-12): GET, PUT, DELETE, list, testQueries. Rules are the engine's."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from modelsync_server.hub.configurations import model
from modelsync_server.hub.configurations.engine import Configurations
from modelsync_server.iothub import twin_document as documents
from modelsync_server.iothub.errors import HubError, argument_invalid
from modelsync_server.query import parse


class ConfigurationRoutes:
    """Handlers of `/configurations…`."""

    def __init__(self, configurations: Configurations) -> None:
        self._configurations = configurations

    def register(self, router: web.UrlDispatcher) -> None:
        router.add_get("/configurations", self._list)
        router.add_post("/configurations/testQueries", self._test)
        router.add_get("/configurations/{id}", self._get)
        router.add_put("/configurations/{id}", self._put)
        router.add_delete("/configurations/{id}", self._delete)

    async def _list(self, request: web.Request) -> web.Response:
        top = request.query.get("top", str(model.MAX_CONFIGURATIONS))
        if not top.isdigit() or int(top) < 1:
            raise argument_invalid("top is not a number from 1.")
        chosen = self._configurations.all()[: min(int(top), model.MAX_CONFIGURATIONS)]
        return web.json_response(self._configurations.measured(chosen))

    async def _get(self, request: web.Request) -> web.Response:
        found = self._configurations.get(request.match_info["id"])
        return _answer(self._configurations.measured([found])[0])

    async def _put(self, request: web.Request) -> web.Response:
        body = documents.parse_object(await request.read())
        made = self._configurations.put(request.match_info["id"], body, request.headers.get("If-Match"))
        return _answer(self._configurations.measured([made])[0], 201 if made.revision == 1 else 200)

    async def _delete(self, request: web.Request) -> web.Response:
        self._configurations.delete(request.match_info["id"], request.headers.get("If-Match"))
        return web.Response(status=204)

    async def _test(self, request: web.Request) -> web.Response:
        """What is wrong with a target condition and metrics, without making a configuration."""
        body = documents.parse_object(await request.read())
        condition, queries = body.get("targetCondition") or "", body.get("customMetricQueries") or {}
        if not isinstance(condition, str) or not isinstance(queries, dict):
            raise argument_invalid("targetCondition is a string and customMetricQueries an object of queries.")
        answer: dict[str, Any] = {"targetConditionError": None, "customMetricQueryErrors": {}}
        try:
            model.target(condition, modules=condition.lstrip().lower().startswith("from"))
        except HubError as error:
            answer["targetConditionError"] = error.message
        for name, text in queries.items():
            try:
                parse(str(text))
            except HubError as error:
                answer["customMetricQueryErrors"][name] = error.message
        return web.json_response(answer)


def _answer(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(document, status=status, headers={"ETag": f'"{document["etag"]}"'})
