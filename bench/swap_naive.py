"""The naive reload of the swap benchmark: a new session from bytes, then a global is replaced. Same HTTP, same tensors.

`python -m bench.swap_naive DATA` prints {"url"} and follows DATA's pointer every 10 ms.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnxruntime
from aiohttp import web

from modelsync_inference.http import oip
from modelsync_inference.model.lease import Prediction

_NAME = "bench"


class Naive:
    """What such a server looks like in many a tutorial."""

    def __init__(self, data: Path) -> None:
        self._folder = data / "models" / _NAME
        self._session: tuple[int, Any] | None = None
        self._pool = ThreadPoolExecutor(2)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        seen = None
        while True:
            text = (self._folder / "current.json").read_bytes()
            if text != seen:
                seen, pointer = text, json.loads(text)
                data = (self._folder / pointer["path"] / "model.onnx").read_bytes()
                self._session = (pointer["version"], onnxruntime.InferenceSession(data))
            time.sleep(0.01)

    async def ready(self, _: web.Request) -> web.Response:
        """Whether there is a session."""
        return web.Response(status=200 if self._session else 503)

    async def infer(self, request: web.Request) -> web.Response:
        """Run the session that there is."""
        body = await request.read()
        answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, request.headers, body)
        headers = {"Content-Type": "application/octet-stream", oip.HEADER_LENGTH: str(answer.header_length)}
        return web.Response(body=answer.body, headers=headers)

    def _answer(self, headers: Any, body: bytes) -> oip.InferAnswer:
        assert self._session is not None
        version, session = self._session
        parsed = oip.parse_request(body, headers.get(oip.HEADER_LENGTH))
        names = list(parsed.outputs or ())
        values = session.run(names, dict(parsed.inputs))
        return oip.build_answer(_NAME, parsed, Prediction(dict(zip(names, values, strict=True)), version, ""))


async def main() -> None:
    """Serve until killed."""
    naive = Naive(Path(sys.argv[1]))
    app = web.Application(client_max_size=64 << 20)
    app.add_routes([web.get("/v2/health/ready", naive.ready), web.post(f"/v2/models/{_NAME}/infer", naive.infer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
