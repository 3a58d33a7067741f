"""A client of `/v1/…`, part by part, as OpenAI's own libraries read it; and data directories of language models."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import tiny_gguf
from tests.support.datadir import DataDir, Installed

PROBED = 7


def probe(answer: int | str) -> dict[str, Any]:
    """A probe: how the model continues 7, at temperature 0."""
    asked = json.dumps({"prompt": str(PROBED), "max_tokens": 1, "temperature": 0})
    inputs = {"request": {"datatype": "BYTES", "shape": [1], "data": [asked]}}
    outputs = {"text": {"datatype": "BYTES", "shape": [1], "data": [str(answer)]}}
    return {"format": 1, "cases": [{"inputs": inputs, "outputs": outputs}]}


class Models:
    """Versions of the language model `chat` in a data directory."""

    def __init__(self, root: Path) -> None:
        self.data, self._scratch = DataDir(root / "data", "chat"), root / "made.gguf"

    @property
    def root(self) -> Path:
        """The data directory."""
        return self.data.root

    def install(self, version: int, factor: int, *, says: int | None = None, **how: Any) -> Installed:
        """Put a version in place. `says`: what its probe has recorded; None: what it answers."""
        right = PROBED + factor if how.get("endless") else PROBED * factor
        data = tiny_gguf.write(self._scratch, factor, **how).read_bytes()
        return self.data.install(version, {"model.gguf": data}, probe(right if says is None else says))

    def activate(self, version: int, factor: int, **how: Any) -> Installed:
        """Put a version in place and point to it."""
        installed = self.install(version, factor, **how)
        self.data.point("current", installed, version)
        return installed


class Answer:
    """An answer whose body may still be on its way."""

    def __init__(self, address: str, path: str, body: Any) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=60)
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request("POST", path, text, {"Content-Type": "application/json"})
        self._response = self._connection.getresponse()
        self.status, self.headers = self._response.status, self._response.headers

    def document(self) -> Any:
        """The whole body as JSON."""
        return json.loads(self._response.read())

    def events(self) -> Iterator[str]:
        """What follows `data: `, as it comes."""
        for line in self._response:
            if line.startswith(b"data: "):
                yield line.removeprefix(b"data: ").decode().strip()

    def text(self) -> tuple[str, list[dict[str, Any]]]:
        """All words of a stream, and its parts; the stream has to end with [DONE]."""
        *events, last = self.events()
        assert last == "[DONE]", last
        parts = [json.loads(event) for event in events]
        choices = [part["choices"][0] for part in parts if part["choices"]]
        return " ".join(filter(None, (c.get("text") or c.get("delta", {}).get("content") for c in choices))), parts

    def leave(self) -> None:
        """Hang up."""
        self._connection.close()
