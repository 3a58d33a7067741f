"""In front of llama.cpp's server: swaps its GGUF with slots drained and no request lost.

For a device with room for one model.

python front.py PORT CONTROL_SOCKET llama-server -m {model} --port {port} --host 127.0.0.1 --slots

It passes connections through. `POST /swap?path=FOLDER` on the control socket holds new ones back, lets those under way
end, stops the server, starts it on FOLDER/model.gguf and lets go; if that one does not become healthy, the old model is
started again and the answer is 500. What is held back waits; nothing is refused. A server that dies is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

DRAIN_SECONDS = float(os.environ.get("DRAIN_SECONDS", "60"))
START_SECONDS = float(os.environ.get("START_SECONDS", "120"))


class Front:
    """One server process, and the connections that go to it."""

    def __init__(self, command: list[str]) -> None:
        self._command, self.model = command, ""
        self._process: asyncio.subprocess.Process | None = None
        self._port = 0
        self._open, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._under_way = self.deaths = 0
        self._swapping = asyncio.Lock()

    async def swap(self, model: str) -> str:
        """Serve `model`; an empty text, or why it was not possible: then the one before serves."""
        async with self._swapping:
            if model == self.model and self._process and self._process.returncode is None:
                return ""  # told again
            self._open.clear()
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self._idle.wait()
                    await self._slots_idle()
            except TimeoutError:
                self._open.set()
                return f"requests were still under way after {DRAIN_SECONDS:g} s; the old model serves on"
            before, self.deaths = self.model, 0
            trouble = await self._start(model)
            if trouble and before:
                await self._start(before)
            if self.model:
                self._open.set()
            return trouble

    async def _slots_idle(self) -> None:
        """What the server itself says: a request whose client went away may still be worked on."""
        while self._process and self._process.returncode is None:
            with contextlib.suppress(OSError, ValueError):
                slots = await asyncio.to_thread(_get, self._port, "/slots")
                if not any(slot.get("is_processing") for slot in slots):
                    return
            await asyncio.sleep(0.1)

    async def _start(self, model: str) -> str:
        await self.stop()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        command = [part.format(model=model, port=self._port) for part in self._command]
        process = self._process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
        for _ in range(int(START_SECONDS * 10)):
            if process.returncode is not None:
                self.model = ""
                return f"the server ended with {process.returncode} while it loaded {model}"
            with contextlib.suppress(OSError, ValueError):
                if (await asyncio.to_thread(_get, self._port, "/health")).get("status") == "ok":
                    self.model = model
                    return ""
            await asyncio.sleep(0.1)
        await self.stop()
        self.model = ""
        return f"the server was not healthy within {START_SECONDS:g} s with {model}"

    async def stop(self) -> None:
        """End the server; what it did was drained."""
        if self._process and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(10):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def keep_running(self) -> None:
        """Start it again on the same model when it dies."""
        while True:
            if self._process:
                await self._process.wait()
                async with self._swapping:
                    if self.model and self._process.returncode is not None:
                        self.deaths += 1
                        await self._start(self.model)
            await asyncio.sleep(0.2)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection through, when it may."""
        await self._open.wait()
        self._under_way += 1
        self._idle.clear()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except OSError:
            writer.close()
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`POST /swap?path=FOLDER`, `GET /serving`."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        url = urlsplit(head.split(" ")[1])
        trouble = ""
        if url.path == "/swap":
            trouble = await self.swap(f"{parse_qs(url.query)['path'][0]}/model.gguf")
        alive = self._process is not None and self._process.returncode is None
        body = json.dumps(
            {"model": self.model, "alive": alive, "deaths": self.deaths, "error": trouble or None}
        ).encode()
        status = "500 Not Loaded" if trouble else "200 OK" if alive else "503 Not Running"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


def _get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return json.load(answer)


async def main() -> None:
    """Until cancelled."""
    front, control = Front(sys.argv[3:]), Path(sys.argv[2])
    control.unlink(missing_ok=True)
    await asyncio.start_unix_server(front.control, str(control))
    server = await asyncio.start_server(front.connect, "127.0.0.1", int(sys.argv[1]))
    work = asyncio.gather(server.serve_forever(), front.keep_running())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        pass
    finally:
        await front.stop()


if __name__ == "__main__":
    asyncio.run(main())
