"""Language models as OpenAI's clients call them: chats, completions, streams, swaps, faults. llama.cpp runs them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from modelsync_inference import HotModel, Isolation, NotServingError, Settings
from modelsync_inference.handle.settings import EngineRules
from tests.support.chats import Answer, Models
from tests.support.infer_process import InferProcess
from tests.support.waiting import wait_until

SLOW: dict[str, Any] = {"endless": True, "heavy": 8_000}
"""A model that counts on and on, a millisecond or two a number."""

DULL: dict[str, Any] = {"temperature": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferProcess]:
    models = Models(tmp_path_factory.mktemp("chat"))
    models.activate(4, 3)
    with InferProcess(models.root, "--context-tokens", "128", model="chat") as process:
        _wait(process, 4)
        yield process


def _wait(server: InferProcess, version: int) -> None:
    wait_until(lambda: (status(server)["serving"] or {}).get("version") == version, f"version {version}")


def status(server: InferProcess) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/status", timeout=10) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


def complete(server: InferProcess, prompt: object, **more: Any) -> Answer:
    return Answer(server.address, "/v1/completions", {"model": "chat", "prompt": prompt, **DULL, **more})


def test_a_chat_is_answered_and_says_which_version_wrote_it(server: InferProcess) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "7"}], "max_tokens": 2, **DULL}
    answer = Answer(server.address, "/v1/chat/completions", body)
    document = answer.document()
    assert (answer.status, document["object"], document["model"]) == (200, "chat.completion", "chat")
    assert document["choices"][0]["message"] == {"role": "assistant", "content": "2163"}
    assert document["usage"]["completion_tokens"] == 2
    assert answer.headers["modelsync-model-version"] == "4"
    assert document["system_fingerprint"].startswith("modelsync-4-")


def test_a_stream_has_a_part_for_each_token_and_an_end(server: InferProcess) -> None:
    answer = complete(server, "2", max_tokens=3, stream=True, stream_options={"include_usage": True})
    text, parts = answer.text()
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert text == "6 18 54"
    assert {part["model"] for part in parts} == {"chat"} and {part["object"] for part in parts} == {"text_completion"}
    assert any(part.get("usage", {}).get("completion_tokens") == 3 for part in parts)
    body = {"messages": [{"role": "user", "content": "5"}], "max_tokens": 2, "stream": True, **DULL}
    assert Answer(server.address, "/v1/chat/completions", body).text()[0] == "15 45"


def test_a_stream_and_an_answer_in_one_piece_say_the_same(server: InferProcess) -> None:
    for path, asked in (
        ("chat/completions", {"messages": [{"role": "user", "content": "7"}]}),
        ("completions", {"prompt": "7"}),
    ):
        for more in ({}, {"n": 2}, {"logprobs": 1 if path == "completions" else True}):
            body = {**asked, **DULL, "max_tokens": 3, **more}
            whole = Answer(server.address, f"/v1/{path}", body).document()
            texts = [choice.get("text") or choice["message"]["content"] for choice in whole["choices"]]
            assert texts == ["2163" + "39"] * len(texts) and len(texts) == body.get("n", 1)
            assert [choice["finish_reason"] for choice in whole["choices"]] == ["length"] * len(texts)
            assert whole["usage"]["completion_tokens"] >= 3
            assert whole["object"] == ("chat.completion" if path.startswith("chat") else "text_completion")
            assert Answer(server.address, f"/v1/{path}", {**body, "n": 1, "stream": True}).text()[0].split()[-1] == "39"
            assert ("logprobs" in whole["choices"][0] and whole["choices"][0]["logprobs"] is not None) == (
                "logprobs" in more
            )


def test_a_stream_is_one_only_if_it_is_asked_for_in_json(server: InferProcess) -> None:
    for odd in (1, "true", None, False):
        answer = complete(server, "2", max_tokens=3, stream=odd)
        assert (answer.status, answer.document()["choices"][0]["text"]) == (200, "61854")


def test_the_models_that_can_be_asked_are_listed(server: InferProcess) -> None:
    with urllib.request.urlopen(f"{server.url}/v1/models", timeout=10) as answer:
        assert [model["id"] for model in json.load(answer)["data"]] == ["chat"]


def test_it_answers_over_the_open_inference_protocol_too(server: InferProcess) -> None:
    asked = json.dumps({"prompt": "11", "max_tokens": 1, **DULL})
    body = {"inputs": [{"name": "request", "datatype": "BYTES", "shape": [1], "data": [asked]}]}
    document = Answer(server.address, "/v2/models/chat/infer", body).document()
    assert {entry["name"]: entry["data"][0] for entry in document["outputs"]}["text"] == "33"


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("completions", {}, 400, "the request needs 'prompt'"),
        ("chat/completions", {"prompt": "1"}, 400, "the request needs 'messages'"),
        ("completions", b"{", 400, "not JSON"),
        ("completions", b"[1]", 400, "must be a JSON object"),
        ("completions", {"prompt": 3}, 400, "refuses the request"),
        ("completions", {"prompt": "1", "max_tokens": "many"}, 400, "max_tokens"),
        ("completions", {"prompt": "1 " * 500}, 400, "exceeds the available context size"),
        ("completions", {"prompt": "1 " * 500, "stream": True}, 400, "exceeds the available context size"),
        ("chat/completions", {"messages": "hello"}, 400, "to be an array"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]},
            400,
            "image input is not supported",
        ),
        ("completions", {"prompt": "1", "model": "another"}, 404, "no model 'another'"),
    ],
)
def test_a_request_that_can_not_be_answered_is_told_so_and_costs_nothing(
    server: InferProcess, path: str, body: Any, status: int, told: str
) -> None:
    answer = Answer(server.address, f"/v1/{path}", body)
    error = answer.document()["error"]
    assert (answer.status, error["type"]) == (status, "invalid_request_error")
    assert told in error["message"]
    assert complete(server, "3", max_tokens=1).document()["choices"][0]["text"] == "9"
    assert globals()["status"](server)["errors"] == 0


def test_a_generation_ends_on_its_version_and_later_requests_go_to_the_new_one_none_lost(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.activate(1, 1, **SLOW)
    with InferProcess(models.root, "--context-tokens", "2000", "--workers", "2", model="chat") as server:
        _wait(server, 1)
        with ThreadPoolExecutor(8) as pool:
            running = [complete(server, "1", max_tokens=700, stream=True) for _ in range(2)]
            assert [next(answer.events()) for answer in running]
            waiting = [pool.submit(lambda: complete(server, "2", max_tokens=2)) for _ in range(4)]
            models.activate(2, 3)
            _wait(server, 2)
            swapped_at = [answer.headers["modelsync-model-version"] for answer in running]
            # Both slots of version 1 are still writing; version 2 has slots of its own.
            for answer in running:
                text, parts = answer.text()
                assert [int(word) for word in text.split()] == [(3 + n) % 150 for n in range(699)]  # without the first
                assert parts[-1]["system_fingerprint"].startswith("modelsync-1-")
                assert parts[-1]["choices"][0]["finish_reason"] == "length"
            answers = [future.result() for future in waiting]
        assert swapped_at == ["1", "1"]
        assert [answer.status for answer in answers] == [200] * 4
        for answer in answers:
            texts = {"1": "34", "2": "618"}
            assert answer.document()["choices"][0]["text"] == texts[answer.headers["modelsync-model-version"]]
        assert complete(server, "2", max_tokens=1).headers["modelsync-model-version"] == "2"


@pytest.mark.long
def test_a_version_whose_probe_is_not_reproduced_never_answers(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.activate(1, 3)
    with InferProcess(models.root, "--context-tokens", "128", model="chat") as server:
        _wait(server, 1)
        models.activate(2, 4, says=21)
        wait_until(lambda: status(server)["refusals"] == 1, "the refusal")
        assert "output 'text' differs" in status(server)["current"]["reason"]
        assert complete(server, "2", max_tokens=1).document()["choices"][0]["text"] == "6"


@pytest.mark.long
def test_a_client_that_leaves_gives_its_slot_back(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.activate(1, 1, **SLOW)
    arguments = ["--context-tokens", "2000", "--workers", "1", "--generation-seconds", "50"]
    with InferProcess(models.root, *arguments, model="chat") as server:
        _wait(server, 1)
        left = complete(server, "1", max_tokens=1900, stream=True)
        next(left.events())
        left.leave()
        whole = http.client.HTTPConnection(server.address)
        whole.request("POST", "/v1/completions", json.dumps({"prompt": "1", "max_tokens": 1900}))
        whole.close()
        assert complete(server, "5", max_tokens=1).document()["choices"][0]["text"] == "6"
        assert status(server)["errors"] == 0


@pytest.mark.long
def test_a_crash_in_the_middle_is_told_in_the_stream_and_the_next_request_is_answered(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.activate(1, 1, **SLOW)
    with InferProcess(models.root, "--context-tokens", "2000", model="chat") as server:
        _wait(server, 1)
        broken = complete(server, "1", max_tokens=1900, stream=True)
        events = broken.events()
        next(events)
        os.kill(_worker_of(server), signal.SIGKILL)
        *_, last = events
        assert "was killed by SIGKILL while it ran" in json.loads(last)["error"]["message"]
        assert complete(server, "5", max_tokens=1).document()["choices"][0]["text"] == "6"


@pytest.mark.long
def test_an_answer_without_end_is_ended(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.activate(1, 1, **SLOW)
    arguments = ["--context-tokens", "2000", "--generation-seconds", "0.3"]
    with InferProcess(models.root, *arguments, model="chat") as server:
        _wait(server, 1)
        worker = _worker_of(server)
        answer = complete(server, "1", max_tokens=1900)
        assert answer.status == 400
        assert "not complete after 0.3 s; ask for fewer tokens (max_tokens)" in answer.document()["error"]["message"]
        *_, last = complete(server, "1", max_tokens=1900, stream=True).events()
        assert "not complete after 0.3 s" in json.loads(last)["error"]["message"]
        assert complete(server, "5", max_tokens=1).document()["choices"][0]["text"] == "6"
        # Nobody else's answer was ended with it.
        assert (_worker_of(server), status(server)["errors"]) == (worker, 0)


def test_its_process_has_no_port(server: InferProcess) -> None:
    sockets = {str(path.readlink()) for path in Path(f"/proc/{_worker_of(server)}/fd").iterdir()}
    listening = {f"socket:[{line.split()[9]}]" for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
    assert not sockets & listening
    assert "seccomp" in status(server)["confined_by"]


@pytest.mark.long
def test_in_an_applications_own_process_it_is_refused_with_the_cure(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.activate(1, 3)
    told = r"it is served in a process of its own .*Isolation\.PROCESS"
    with (
        HotModel(models.root, "chat", settings=Settings(link=False)) as model,
        pytest.raises(NotServingError, match=told),
    ):
        model.wait_ready(2)
    settings = Settings(link=False, isolation=Isolation.PROCESS, engines=EngineRules(context_tokens=128))
    with HotModel(models.root, "chat", settings=settings) as model:
        model.wait_ready(30)
        asked = json.dumps({"prompt": "2", "max_tokens": 1, **DULL})
        assert model.predict({"request": [asked]}, ["text"]).outputs["text"].tolist() == ["6"]
        parts: list[bytes] = []

        def keep(part: bytes) -> bool:
            parts.extend([part] if part else [])
            return True

        with model.lease() as lease:
            lease.generate(asked.encode(), keep)
        assert [json.loads(part)["choices"][0]["text"] for part in parts] == ["6"]


def _worker_of(server: InferProcess) -> int:
    """The process in which the model runs: the one that has llama.cpp mapped."""
    children = [
        int(pid) for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    ]
    (found,) = [pid for pid in children if "xllamacpp" in Path(f"/proc/{pid}/maps").read_text()]
    return found
