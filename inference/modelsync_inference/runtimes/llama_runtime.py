"""The runtime port on llama.cpp, by xllamacpp: its own server's slots and sampling, in this process, without its HTTP.

As tensors: `request` BYTES [1], a JSON body of OpenAI's chat completions (with `messages`) or completions (with
`prompt`), to `text` BYTES [1], what the model wrote, and `response` BYTES [1], the whole answer as JSON.
Source: https://github.com/ggml-org/llama.cpp/tree/master/tools/server
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp

from modelsync_inference.errors import InputError, ModelRefusedError, RunError
from modelsync_inference.runtimes.datatypes import BYTES, Array
from modelsync_inference.runtimes.onnx_sessions import Choice
from modelsync_inference.runtimes.port import LANGUAGE_PLATFORM, LoadedModel, Stated, TensorSpec

REQUEST, TEXT, RESPONSE = "request", "text", "response"
_ERRORS_ONLY = 1
_NO_PORT = 1
_MERGED_BY_LLAMA = frozenset({"tools", "functions", "logprobs", "top_logprobs", "n_probs"})
"""Fields whose parts are more than text: such an answer comes whole from llama.cpp, and can't be ended before."""
_TEXTS = ("content", "reasoning_content")
_CLIENT_ERRORS = range(400, 500)
_NOT_FOR_CLIENTS = ("id_slot", "lora", "model")
"""Fields of llama.cpp's own that choose among what other requests use."""


class LlamaEngine:
    """Loads GGUF files, with a slot for each run at the same time."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def load_from(self, path: Path, data: bytes | None, stated: Stated) -> LoadedModel:
        """See Engine. The file is mapped."""
        wanted, choice = xllamacpp.CommonParams(), self._choice
        wanted.model.path = str(path)
        wanted.n_gpu_layers = 0
        wanted.n_parallel = choice.runs
        wanted.n_ctx = choice.context * choice.runs
        wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = choice.threads
        # Its own HTTP server, which can't be left out: the process that this runs in listens to nothing.
        wanted.port, wanted.api_keys = _NO_PORT, [secrets.token_hex(32)]
        wanted.verbosity = _ERRORS_ONLY
        wanted.warmup = True
        wanted.fit_params = False
        wanted.offline = True
        try:
            return LlamaModel(xllamacpp.Server(wanted))
        except Exception as error:  # its errors have no common root; whatever it is, this file can't serve
            raise ModelRefusedError(f"llama.cpp can't load {path.name}: {_told(error)}.") from error


class LlamaModel:
    """A language model with its slots."""

    platform = LANGUAGE_PLATFORM
    inputs = (TensorSpec(REQUEST, BYTES, (1,)),)
    outputs = (TensorSpec(TEXT, BYTES, (1,)), TensorSpec(RESPONSE, BYTES, (1,)))

    def __init__(self, server: Any) -> None:
        self._server = server

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """See LoadedModel. A request that asks for a stream is answered whole."""
        item = inputs[REQUEST].ravel()[0]
        parts: list[bytes] = []
        asked = {**_document(item if isinstance(item, bytes) else str(item)), "stream": False}
        self._generate(asked, lambda part: parts.append(part) if part else None)
        response = parts[0] if parts else b"{}"
        answers = {TEXT: _text_of(json.loads(response)), RESPONSE: response.decode()}
        return {name: np.array([answers[name]], dtype=np.object_) for name in outputs}

    def generate(self, request: bytes, emit: Callable[[bytes], bool]) -> None:
        """See Generating."""
        self._generate(_document(request), emit)

    def _generate(self, document: dict[str, Any], emit: Callable[[bytes], object]) -> None:
        server = self._server
        if server is None:
            raise RunError("the model is closed.")
        handle = server.handle_chat_completions if "messages" in document else server.handle_completions
        failed: list[Exception] = []

        def part(value: Any, take: Callable[[Any], object] | None = None) -> bool:
            """True: no more. `take` has the part instead of `emit`, which is only asked then."""
            try:
                checked = _checked(value)
                if take is None:
                    return emit(checked) is False
                take(value)
                return emit(b"") is False
            except Exception as error:  # it must not go through llama.cpp's own frames
                failed.append(error)
                return True

        try:
            if document.get("stream"):
                handle(document, part)
            elif document.keys() & _MERGED_BY_LLAMA:
                part(handle(document))
            else:
                # By way of a stream too, since only that can be ended before it is complete.
                whole = WholeAnswer(is_chat="messages" in document)
                asked = {**document, "stream": True, "stream_options": {"include_usage": True}}
                handle(asked, lambda value: part(value, whole.add))
                if not failed:
                    emit(json.dumps(whole.document(), separators=(",", ":")).encode())
        except (ValueError, RuntimeError, TypeError) as error:
            # It raises while it reads a request; what goes wrong later comes as a part (_checked).
            raise InputError(f"llama.cpp refuses the request: {_told(error)}.") from error
        if failed:
            raise failed[0]

    def close(self) -> None:
        """Let go of the weights, the slots and their threads."""
        self._server = None


class WholeAnswer:
    """Puts the parts of a streamed answer together into what the same request without a stream would get.

    Of one or more choices whose parts are text. Source:
    https://platform.openai.com/docs/api-reference/chat-streaming
    """

    def __init__(self, *, is_chat: bool) -> None:
        self._chat = is_chat
        self._about: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, part: dict[str, Any]) -> None:
        """One more part."""
        self._about |= {key: value for key, value in part.items() if key != "choices" and value is not None}
        for choice in part.get("choices", ()):
            index = choice.get("index", 0)
            whole = self._choices.setdefault(index, self._empty(index))
            if choice.get("finish_reason") is not None:
                whole["finish_reason"] = choice["finish_reason"]
            if not self._chat:
                whole["text"] += choice.get("text") or ""
                continue
            for key in _TEXTS:
                if choice.get("delta", {}).get(key):
                    whole["message"][key] = (whole["message"].get(key) or "") + choice["delta"][key]

    def _empty(self, index: int) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": ""}} if self._chat else {"text": "", "logprobs": None}
        return {**content, "index": index, "finish_reason": None}

    def document(self) -> dict[str, Any]:
        """The answer."""
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._about, "object": kind, "choices": [self._choices[index] for index in sorted(self._choices)]}


def _document(text: bytes | str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is not JSON: {error}.") from error
    if not isinstance(document, dict) or not document.keys() & {"messages", "prompt"}:
        raise InputError("the request must be a JSON object with 'messages' (a chat) or 'prompt' (a completion).")
    return {key: value for key, value in document.items() if key not in _NOT_FOR_CLIENTS}


def _checked(value: Any) -> bytes:
    """A part as JSON; InputError or RunError if it is llama.cpp's word for one."""
    error = value.get("error") if isinstance(value, dict) else None
    if error:
        told, code = error.get("message", error), error.get("code", 500)
        if code in _CLIENT_ERRORS:
            raise InputError(f"llama.cpp refuses the request: {_one_line(str(told))}.")
        raise RunError(f"the model broke while it wrote: {_one_line(str(told))}.")
    return json.dumps(value, separators=(",", ":")).encode()


def _text_of(response: Any) -> str:
    """What the model wrote, in its first choice."""
    try:
        choice = response["choices"][0]
        return str(choice["text"] if "text" in choice else choice["message"].get("content") or "")
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""


def _told(error: Exception) -> str:
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")[:400]
