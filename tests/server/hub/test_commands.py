"""`modelsync hub` and `modelsync twin` as a user runs them: separate processes, JSON out, sentences on stderr."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import MethodResponse
from azure.iot.device.aio import IoTHubDeviceClient, IoTHubModuleClient

from modelsync_server.hub.__main__ import main
from modelsync_server.hub.hub import add_device
from modelsync_server.hub.state import State
from modelsync_server.iothub.identity import Identity
from tests.support.addresses import loopback_address
from tests.support.hub_sdk import set_handler, shut_down
from tests.support.waiting import PATIENCE_SECONDS, within

COMMAND = (sys.executable, "-m", "modelsync_server.hub")


@dataclass(frozen=True, slots=True)
class Running:
    process: subprocess.Popen[str]
    ready: dict[str, str]
    state: Path


def run(*arguments: str, service: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MODELSYNC_")}
    if service is not None:
        environment["MODELSYNC_SERVICE"] = service
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=240, env=environment, check=False
    )


@contextmanager
def _started(*options: str) -> Iterator[subprocess.Popen[str]]:
    """A hub process that is killed at the latest at the end."""
    with subprocess.Popen([*COMMAND, "hub", *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def running(tmp_path: Path, worker_id: str) -> Iterator[Running]:
    state = tmp_path / "state"
    options = ["--state", str(state), "--host", loopback_address(worker_id), "--service-port", "0", "--json"]
    with _started(*options) as process:
        assert process.stdout is not None
        try:
            yield Running(process, json.loads(process.stdout.readline()), state)
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


async def test_the_two_minute_path_from_hub_to_a_twin_that_is_followed(running: Running) -> None:
    assert running.ready.keys() == {"host", "ca", "service"}
    added = run("hub", "device", "add", "pi", "--module", "modelsync", "--state", str(running.state))
    assert added.returncode == 0, added.stderr
    service = running.ready["service"]
    patch = running.state / "patch.json"
    patch.write_text('{"modelsync": {"models": {"anomaly": {"version": 1}}}}')
    done = run("twin", "set", "pi", f"@{patch}", "--module", "modelsync", service=service)
    assert done.returncode == 0, done.stderr

    client: Any = IoTHubModuleClient.create_from_connection_string(
        added.stdout.strip(), server_verification_cert=Path(running.ready["ca"]).read_text()
    )
    async with shut_down(client):
        await within(client.connect())
        twin = await within(client.get_twin())
        assert twin["desired"]["modelsync"] == {"models": {"anomaly": {"version": 1}}}

        async def answer(request: Any) -> None:
            await client.send_method_response(MethodResponse.create_from_method_request(request, 200, request.payload))

        await within(set_handler(client, "on_method_request_received", answer))
        invoke = ["twin", "invoke", "pi", "status", '{"n": 1}', "--module", "modelsync"]
        invoked = await asyncio.to_thread(run, *invoke, service=service)
        assert json.loads(invoked.stdout) == {"status": 200, "payload": {"n": 1}}
    shown = run("twin", "get", "pi", "--module", "modelsync", "--state", str(running.state))
    assert json.loads(shown.stdout)["properties"]["desired"]["$version"] == 2


def test_tags_are_merged_and_null_deletes(running: Running) -> None:
    assert run("hub", "device", "add", "pi", "--state", str(running.state)).returncode == 0
    service = running.ready["service"]
    for patch, tags in (
        ('{"ring": "canary", "site": {"city": "Bern"}}', {"ring": "canary", "site": {"city": "Bern"}}),
        ('{"ring": null, "site": {"floor": 2}}', {"site": {"city": "Bern", "floor": 2}}),
    ):
        done = run("twin", "tag", "pi", patch, service=service)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tags"] == tags
    shown = json.loads(run("twin", "get", "pi", service=service).stdout)
    assert shown["tags"] == {"site": {"city": "Bern", "floor": 2}}
    wrong = run("twin", "tag", "pi", '{"a.b": 1}', service=service)
    assert (wrong.returncode, "tags has a key" in wrong.stderr) == (2, True), wrong.stderr


async def test_an_edge_module_follows_its_twin_with_the_workload_option(
    tmp_path: Path, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "workload.sock"
    host = loopback_address(worker_id)
    options = ["--state", str(tmp_path / "s"), "--host", host, "--service-port", "0"]
    with _started(*options, "--workload", f"edge/modelsync={socket}") as process:
        assert process.stdout is not None
        ready = json.loads(await asyncio.to_thread(process.stdout.readline))
        for line in Path(f"{socket}.env").read_text().splitlines():
            monkeypatch.setenv(*line.split("=", 1))
        client: Any = await asyncio.to_thread(IoTHubModuleClient.create_from_edge_environment)
        async with shut_down(client):
            await within(client.connect())
            await within(client.patch_twin_reported_properties({"edge": True}))
        get = ["twin", "get", "edge", "--module", "modelsync"]
        shown = await asyncio.to_thread(run, *get, service=ready["service"])
        assert json.loads(shown.stdout)["properties"]["reported"]["edge"] is True
        process.terminate()
        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0
    assert not socket.exists()


def test_sigterm_ends_the_hub_with_exit_code_0_and_nothing_else_on_stdout(running: Running) -> None:
    running.process.terminate()
    assert running.process.wait(PATIENCE_SECONDS) == 0
    assert running.process.stdout is not None
    assert running.process.stdout.read() == ""


def test_what_was_answered_survives_a_kill(running: Running) -> None:
    service = running.ready["service"]
    with State(running.state) as state:
        add_device(state, Identity("pi"))
    assert run("twin", "set", "pi", '{"n": 2}', service=service).returncode == 0
    running.process.kill()
    running.process.wait(PATIENCE_SECONDS)
    with _started("--state", str(running.state), "--host", running.ready["host"], "--service-port", "0") as again:
        assert again.stdout is not None
        ready = json.loads(again.stdout.readline())
        assert Path(ready["ca"]).read_text() == Path(running.ready["ca"]).read_text()
        twin = json.loads(run("twin", "get", "pi", service=ready["service"]).stdout)
    assert (twin["properties"]["desired"]["n"], twin["properties"]["desired"]["$version"]) == (2, 2)


async def test_many_devices_are_added_at_once_while_the_hub_runs(running: Running) -> None:
    state = ("--state", str(running.state))
    many = ("hub", "device", "add", "--count", "12", "--prefix", "car-", *state)
    added = run(*many)
    assert added.returncode == 0, added.stderr
    names = [f"car-{number:04}" for number in range(1, 13)]
    lines = added.stdout.splitlines()
    assert [re.search(r"DeviceId=([^;]*);", line)[1] for line in lines] == names  # type: ignore[index]
    assert len({line.partition("SharedAccessKey=")[2] for line in lines}) == 12, "each has a key of its own"
    assert run(*many).stdout == added.stdout, "again: the same"
    # Two more, in JSON, with a module each; the others stay as they are.
    more = run("hub", "device", "add", "--count", "14", "--prefix", "car-", "--module", "modelsync", "--json", *state)
    documents = [json.loads(line) for line in more.stdout.splitlines()]
    assert [each["device"] for each in documents] == [*names, "car-0013", "car-0014"]
    assert {each["module"] for each in documents} == {"modelsync"}
    assert all("ModuleId=modelsync" in each["connection_string"] for each in documents)
    listed = run("hub", "device", "list", *state).stdout.split()
    assert listed == sorted(f"car-{n:04}{module}" for n in range(1, 15) for module in ("", "/modelsync"))
    assert run("hub", "device", "add", "car-0007", *state).stdout.strip() == lines[6], (
        "one by one it is the same device"
    )
    # The hub that runs knows them, and lets them in.
    client: Any = IoTHubDeviceClient.create_from_connection_string(
        lines[11], server_verification_cert=Path(running.ready["ca"]).read_text()
    )
    async with shut_down(client):
        await within(client.connect())
        await within(client.patch_twin_reported_properties({"here": True}))
    shown = run("twin", "get", "car-0012", service=running.ready["service"])
    assert json.loads(shown.stdout)["properties"]["reported"]["here"] is True


WRONG = [
    (["hub", "device", "add", "--count", "0"], 2, "1 to 100,000"),
    (["hub", "device", "add", "--count", "100001"], 2, "1 to 100,000"),
    (["hub", "device", "add", "pi", "--count", "3"], 2, "give one device id, or --count"),
    (["hub", "device", "add"], 2, "give one device id, or --count"),
    (["hub", "device", "add", "--count", "3", "--prefix", "a/b"], 2, "device or module id"),
    (["hub", "device", "add", "--count", "3", "--x509", "folder"], 2, "--x509 goes with an id"),
    (["twin", "get", "nobody"], 2, "check the device"),
    (["twin", "set", "nobody", "{"], 2, "not JSON"),
    (["twin", "set", "nobody", "[]"], 2, "merge patch"),
    (["twin", "set", "nobody", "@/nowhere/at/all"], 2, "can't be read"),
    (["twin", "tag", "nobody", "[]"], 2, "merge patch"),
    (["twin", "tag", "nobody", "{}"], 2, "check the device"),
    (["twin", "get", "no body"], 2, "device or module id"),
    (["twin", "get", "x", "--service", "nonsense"], 2, "connection string"),
    (["twin", "get", "x", "--service", "HostName=h;SharedAccessKeyName=p;SharedAccessKey=!"], 2, "not base64"),
    (["twin", "get", "x", "--service", "HostName=h;SharedAccessKeyName=p;SharedAccessKey=YQ==;CaFile=/no"], 5, "CA"),
    (["hub", "--workload", "nonsense"], 2, "DEVICE/MODULE=SOCKET"),
    (["hub", "--state", "/dev/null/hub"], 5, "state directory"),
]


def test_an_error_is_one_sentence_and_an_exit_code(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELSYNC_SERVICE", running.ready["service"])
    for arguments, code, says in WRONG:
        monkeypatch.setattr(sys, "argv", ["modelsync", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        shown = capsys.readouterr()
        assert (exited.value.code, shown.out) == (code, ""), arguments
        assert says in shown.err, shown.err
        assert len(shown.err.strip().splitlines()) == 1, shown.err


def test_a_hub_that_is_gone_is_exit_code_4_and_one_that_never_was_2_or_5(running: Running, tmp_path: Path) -> None:
    running.process.terminate()
    running.process.wait(PATIENCE_SECONDS)
    assert run("twin", "get", "pi", service=running.ready["service"]).returncode == 4
    assert run("twin", "get", "pi", "--state", str(tmp_path / "none")).returncode == 2
    State(tmp_path / "new").close()
    assert run("twin", "get", "pi", "--state", str(tmp_path / "new")).returncode == 5
