"""Records what a real MLflow server says to our client: `python -m tests.server.sources.record_mlflow`.

Two states of one alias, and the webhook by which MLflow tells that it moved. Tests replay them (test_mlflow.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from aiohttp import web

from modelsync_protocol.errors import UsageError
from modelsync_server.sources import fetching
from tests.support.mlflow_server import MlflowServer, mlflow_server
from tests.support.source_server import Recorder

FOLDER = Path(__file__).parent / "transcripts"
SECRET = "a secret that is long enough"
FILES = {"model.onnx": b"first model\n" * 40, "MLmodel": b"flavors: {}\n", "data/labels.txt": b"a\nb\n"}
NEWER = {**FILES, "model.onnx": b"second model\n" * 40}


def seed(server: MlflowServer) -> None:
    """Versions 1 and 2 of `anomaly`; `champion` is the first, and version 3 refers to a run."""
    for files in (FILES, NEWER):
        server.version("anomaly", *server.run(files))
    run, _ = server.run({"model.onnx": FILES["model.onnx"]}, "onnx")
    server.version("anomaly", run, f"runs:/{run}/onnx")
    server.alias("anomaly", "champion", "1")


async def _record(server: MlflowServer, name: str, *addresses: str) -> None:
    async with Recorder(server.url) as recorder:
        os.environ["MLFLOW_TRACKING_URI"] = recorder.url
        for address in addresses:
            try:
                async with fetching.fetched(fetching.parse(address)):
                    pass
            except UsageError as error:
                sys.stdout.write(f"{address}: {error}\n")
        recorder.write(FOLDER / f"{name}.json", "mlflow server 3.17.2, SQLite, artifacts through the server")


async def _webhook(server: MlflowServer) -> None:
    """Keep what MLflow sends when the alias moves."""
    came: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    async def take(request: web.Request) -> web.Response:
        headers = {key: value for key, value in request.headers.items() if key.startswith("X-MLflow")}
        if not came.done():
            came.set_result({"secret": SECRET, "headers": headers, "body": (await request.read()).decode()})
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    event = {"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}
    hook = {
        "name": "test",
        "url": f"http://127.0.0.1:{runner.addresses[0][1]}/hook",
        "events": [event],
        "secret": SECRET,
    }
    await asyncio.to_thread(server.ask, "mlflow/webhooks", hook)
    await asyncio.to_thread(server.alias, "anomaly", "champion", "2")
    found = await asyncio.wait_for(came, 30)
    (FOLDER / "mlflow-webhook.json").write_text(json.dumps(found, indent=1) + "\n")
    await runner.cleanup()


async def main() -> None:
    """Record all of it."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as server:
        await asyncio.to_thread(seed, server)
        alias = "mlflow:models:/anomaly@champion"
        more = ("mlflow:models:/anomaly/3", "mlflow:models:/anomaly/latest", f"{alias}/model.onnx", f"{alias}/data")
        await _record(server, "mlflow-1", alias, *more, "mlflow:models:/anomaly@nobody", "mlflow:models:/other/1")
        await _webhook(server)
        await _record(server, "mlflow-2", alias)


if __name__ == "__main__":
    asyncio.run(main())
