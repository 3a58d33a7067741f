"""A version that this device can't run: nothing of it is fetched, what serves goes on, it is tried again in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from modelsync_daemon.capabilities import device as capabilities
from modelsync_daemon.capabilities import environments
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.transfer.errors import Unsupported
from modelsync_protocol import trust
from modelsync_protocol.errors import LocalError, UsageError
from modelsync_protocol.requirements import capabilities as spelling
from modelsync_protocol.requirements import releases
from modelsync_protocol.requirements.judging import Judgement, judge
from modelsync_server.store import open_store
from modelsync_server.trust.bundles import write_bundles
from tests.daemon.fakes import NAME, Inference, device, reference
from tests.support.pulling import Device, finished, spawn_pull
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop
from tests.support.virtual_time import virtually
from tests.test_docs import ROOT, going

OLD = {"python": "3.11.2", "packages": {"onnxruntime": "1.16.3"}, "complete": True}
NEW = {"python": "3.11.2", "packages": {"onnxruntime": "1.23.2"}, "complete": True}


def model(opset: int, seed: int = 0) -> bytes:
    """An ONNX model of 80 KB that doesn't compress, stamped with an opset."""
    import random

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [20_000]) for name in "xy"]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [20_000], random.Random(seed).randbytes(80_000), raw=True)
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    data: bytes = made.SerializeToString()
    return data


def having(*environments: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"arch": "aarch64", "memory": 2**30, "disk": 2**40, "environments": list(environments), **more}


async def shop_with(root: Path, *opsets: int, **options: Any) -> Shop:
    shop = await Shop.open(root)
    for seed, opset in enumerate(opsets):
        path = root / "artifacts" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(model(opset, seed))
        await shop.publish("m", path, **options)
    return shop


async def test_nothing_but_signed_metadata_is_fetched_and_what_serves_stays(tmp_path: Path) -> None:
    shop = await shop_with(tmp_path, 17, 21)
    pi = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await pi.pull("m", origin.url, 1, capabilities=having(OLD))
        before, asked = pi.listener.received, len(origin.exchanges)
        with pytest.raises(
            Unsupported, match=r"m version 2 can't run here: ONNX opset 21.*1\.18 or newer.*1\.16\.3 is"
        ):
            await pi.pull("m", origin.url, 2, capabilities=having(OLD))
        assert pi.listener.received < 3000 and before > 60_000
        fetched = [exchange.path.lstrip("/") for exchange in origin.exchanges[asked:]]
        assert not [path for path in fetched if path.startswith(("manifests/", "packs/", "updates/"))], fetched
        assert pi.data.read_pointer("m") is not None and not pi.leftovers()
        await pi.pull("m", origin.url, 2, capabilities=having(NEW))
        current = pi.data.read_pointer("m")
        assert current is not None and current.version == 2


async def test_what_is_not_known_stops_nothing(tmp_path: Path) -> None:
    shop = await shop_with(tmp_path, 21)
    async with ScriptedOrigin(shop.path) as origin:
        for number, known in enumerate((None, {}, having(), having({"python": "3.11.2"}))):
            await Device(tmp_path / f"device{number}", shop.trust).pull("m", origin.url, capabilities=known)


async def test_a_requirement_that_nobody_knows_is_taken_and_told_or_refused_if_it_is_set_so(tmp_path: Path) -> None:
    shop = await shop_with(tmp_path, 17, requires={"npu.tops": "4"})
    pi = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        with pytest.raises(Unsupported, match=r"npu\.tops.*does not know: update it"):
            await pi.pull("m", origin.url, capabilities=having(NEW), refuse_unknown=True)
        assert (await pi.pull("m", origin.url, capabilities=having(NEW))).unknown == ("npu.tops",)
        more = having(NEW, has={"npu.tops": "2"})
        with pytest.raises(Unsupported, match="set to have '2'"):
            await Device(tmp_path / "other", shop.trust).pull("m", origin.url, capabilities=more)


async def test_metadata_of_a_newer_form_is_unknown_and_not_damage(tmp_path: Path) -> None:
    shop = await shop_with(tmp_path, 17)
    repository = await shop.repository()

    def change(state: Any) -> set[str]:
        state.roles["m"].signed.unrecognized_fields[trust.REQUIRES] = {"1": ["of", "tomorrow"]}
        return {"m"}

    await repository.commit(change, bundles=False)
    await write_bundles(open_store(str(shop.path)), await _state(shop), None)
    async with ScriptedOrigin(shop.path) as origin:
        found = await Device(tmp_path / "device", shop.trust).pull("m", origin.url, capabilities=having(OLD))
    assert found.unknown == (trust.REQUIRES,)


async def _state(shop: Shop) -> Any:
    from modelsync_server.trust.metadata import read_state

    return await read_state(open_store(str(shop.path)))


async def test_free_disk_is_waited_for(tmp_path: Path) -> None:
    shop = await shop_with(tmp_path, 17, requires={"disk": "9GB"})
    async with ScriptedOrigin(shop.path) as origin:
        with pytest.raises(LocalError, match="waits for room: free disk of 9GB is required; here are 1 MiB"):
            await Device(tmp_path / "device", shop.trust).pull("m", origin.url, capabilities=having(NEW, disk=2**20))


async def test_pull_says_so_with_the_words_of_the_last_process_and_can_be_overruled(tmp_path: Path) -> None:
    shop = await shop_with(tmp_path, 21)
    data = DataDir(tmp_path / "device")
    data.create()
    with contextlib.closing(Database.open(data)) as database:
        environments.keep(database, "m", [OLD])
    async with ScriptedOrigin(shop.path) as origin:
        process = await spawn_pull("m", origin.url, data.root, shop.trust)
        out, err = await process.communicate()
        assert process.returncode == 3 and not out
        assert err.decode().startswith("modelsyncd: m version 1 can't run here: ONNX opset 21")
        assert err.count(b"\n") == 1
        with contextlib.closing(Database.open(data)) as database:
            assert (row := database.model("m")).state == "unsupported" and row.error_code == "unsupported"
        done = await finished(await spawn_pull("m", origin.url, data.root, shop.trust, "--ignore-requires"))
    assert done["state"] == "active"


def refused() -> Unsupported:
    return Unsupported("anomaly version 2 can't run here: ONNX opset 21 is required.", 2, reference(2).digest)


async def test_it_is_a_state_of_its_own_that_is_reported_and_not_tried_again_for_nothing(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        pi.preparer.early = [refused()]
        pi.wish(2)
        await pi.is_in("unsupported", "unsupported")
        await pi.until(lambda: pi.shown_model().get("state") == "unsupported", "the report")
        shown = pi.shown_model()
        assert shown["version"] == 1 and shown["desired"] == 2
        assert shown["error"] == {"code": "unsupported", "text": refused().args[0]}
        for _ in range(3):
            pi.resident.commands.sync()
            await asyncio.sleep(0.05)
        assert [job.version for job in pi.preparer.jobs] == [1, 2]
        pi.wish(1)
        await pi.serves(1)


@virtually
async def test_a_restart_does_not_forget_it_and_other_settings_try_it_again(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.preparer.early = [refused()]
        pi.wish(2)
        await pi.is_in("unsupported")
        plane = pi.plane
    async with device(tmp_path, plane) as pi:
        await asyncio.sleep(0.2)
        assert not pi.preparer.jobs and pi.row().state == "unsupported"
    async with device(tmp_path, plane, capabilities_has=("accelerator=hailo",)) as pi:
        await pi.serves(2)
        assert (given := pi.preparer.jobs[0].capabilities) is not None and given["has"] == {"accelerator": "hailo"}


@pytest.mark.parametrize("how", ["process", "retry", "release", "version"])
async def test_it_is_tried_again_when_something_changed(tmp_path: Path, how: str) -> None:
    async with device(tmp_path) as pi:
        process = Inference(pi)
        process.start()
        await pi.until(lambda: pi.resident.processes.registered(NAME), "the process")
        pi.resident.commands.environment(NAME, process.pid, OLD)
        pi.preparer.early = [refused()]
        pi.wish(2)
        await pi.is_in("unsupported")
        pi.resident.commands.environment(NAME, process.pid, OLD)
        await asyncio.sleep(0.1)
        assert len(pi.preparer.jobs) == 1, "the same words again are no news"
        if how == "process":
            pi.resident.commands.environment(NAME, process.pid, NEW)
        elif how == "retry":
            pi.wish(2, retry="again")
        elif how == "release":
            pi.resident.commands.release(NAME)
        else:
            pi.wish(3)
        await pi.serves(3 if how == "version" else 2)
        given = pi.preparer.jobs[0].capabilities
        assert given is not None and given["environments"] == [OLD]


async def test_the_words_of_a_process_that_left_do_not_count_beside_others(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        old, new = Inference(pi, 1), Inference(pi, 2)
        leaving = old.start()
        new.start()
        await pi.until(lambda: len(pi.resident.processes.registered(NAME)) == 2, "the processes")
        pi.resident.commands.environment(NAME, 1, OLD)
        pi.resident.commands.environment(NAME, 2, NEW)
        assert len(environments.read(pi.database, NAME)) == 2
        pi.preparer.early = [refused()]
        pi.wish(2)
        await pi.is_in("unsupported")
        leaving.cancel()
        await pi.until(lambda: len(pi.resident.processes.registered(NAME)) == 1, "its end")
        current = pi.current()
        assert current is not None
        new.say("serving", current, "current")  # its heartbeat
        assert environments.read(pi.database, NAME) == [NEW]
        await pi.serves(2)


async def test_what_models_run_on_is_reported_once_a_process_has_said_it(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.wish(1)
        await pi.serves(1)
        await pi.until(lambda: pi.shown_model().get("state") == "active", "the report")
        assert "runs_on" not in pi.shown_model()
        pi.resident.commands.environment(NAME, 99, OLD)  # of somebody who is not registered nothing is taken in
        process = Inference(pi)
        process.start()
        await pi.until(lambda: pi.resident.processes.registered(NAME), "the process")
        pi.resident.commands.environment(NAME, process.pid, OLD)
        await pi.until(lambda: "onnxruntime=1.16.3" in pi.shown_model().get("runs_on", ""), "the line")
        for nonsense in (None, 3, {"packages": "all"}):
            with pytest.raises(UsageError):
                pi.resident.commands.environment(NAME, process.pid, nonsense)


async def test_the_setting_switches_it_off_also_for_what_was_refused(tmp_path: Path) -> None:
    async with device(tmp_path) as pi:
        pi.preparer.early = [refused()]
        pi.wish(2)
        await pi.is_in("unsupported")
        plane = pi.plane
    async with device(tmp_path, plane, capabilities_check=False) as pi:
        await pi.serves(2)
        assert pi.preparer.jobs[0].capabilities is None


async def test_a_push_that_can_not_run_here_is_refused_with_the_reason(tmp_path: Path) -> None:
    from modelsync_server.push import payload_for
    from modelsync_server.trust import read_catalogue

    shop = await shop_with(tmp_path, 17, 17)
    path = tmp_path / "artifacts" / "model.onnx"
    path.write_bytes(model(17, 1).replace(b"\x10\x11", b"\x10\x15"))
    await shop.publish("m", path)
    store = open_store(str(shop.path))
    known = (await read_catalogue(store)).model("m")
    assert known.requires[3]["onnx.opset"] == "21"
    payload, _, reason = await payload_for(store, "m", 3, known.versions[3], known.versions[2], 1)
    assert payload is not None, reason
    pi = Device(tmp_path / "device", shop.trust)
    async with ScriptedOrigin(shop.path) as origin:
        await pi.pull("m", origin.url, 2, capabilities=having(OLD))
    pushed = tmp_path / "pushed.json"
    import json

    pushed.write_text(json.dumps(payload))
    with pytest.raises(Unsupported, match="ONNX opset 21"):
        await pi.pull("m", "", 3, pushed=pushed, capabilities=having(OLD))


def test_what_this_machine_has_is_looked_up_without_a_runtime(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.create()
    with contextlib.closing(Database.open(data)) as database:
        found = capabilities.look(tmp_path, database, "m", ("accelerator=hailo",))
        assert found["memory"] > 2**26 and found["disk"] > 0 and found["arch"] == spelling.architecture(found["arch"])
        same = {**found, "disk": found["disk"] - 1, "memory": found["memory"] // 2**26 * 2**26 + 3}
        found["memory"] = same["memory"] - 1
        assert capabilities.fingerprint(same) == capabilities.fingerprint(found)
        environments.keep(database, "m", [OLD])
        assert capabilities.fingerprint(capabilities.look(tmp_path, database, "m", ())) != capabilities.fingerprint(
            found
        )
    with pytest.raises(ValueError, match="KEY=VALUE"):
        spelling.pair("nonsense")


@pytest.mark.long
def test_the_page_goes_as_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "integrations" / "requirements.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- tested by tests/daemon/test_unsupported.py -->\n```sh\n(.*?)```", page, re.DOTALL)
    assert found is not None
    with going(f"set -e\n{found[1]}", tmp_path, seconds=180):
        said = (tmp_path / "said").read_text()
        machine = spelling.architecture(os.uname().machine)
        assert f"modelsyncd: anomaly version 2 can't run here: it is for s390x; this is {machine}.\n" in said
        assert "anomaly 1 unsupported since" in said and "requires arch: nothing -> s390x" in said
        assert (tmp_path / "device" / "models" / "anomaly" / "current").resolve().name.startswith("2-")


async def test_an_inference_process_says_what_it_has_and_the_daemon_hears_it(tmp_path: Path) -> None:
    """A real handle on the real socket: a version for a newer runtime than the one installed here is refused."""
    import onnxruntime

    from modelsync_daemon.local.socket_api import SocketApi
    from modelsync_inference import HotModel

    async with device(tmp_path) as pi:
        api = SocketApi(pi.resident.commands, pi.resident.processes, pi.data.socket)
        await api.start()
        handle = HotModel(tmp_path, NAME).start()
        try:
            await pi.until(lambda: environments.read(pi.database, NAME), "what the process says")
        finally:
            await asyncio.to_thread(handle.close)
            await api.stop()
        known = pi.resident.device.capabilities(NAME)
        assert known["environments"][0]["packages"]["onnxruntime"] == onnxruntime.__version__
        newest = releases.ONNX_RUNTIME[-1][1].opset
        opsets = {str(opset): judge({"onnx.opset": str(opset)}, known) for opset in (17, newest + 1)}
        assert opsets["17"] == Judgement()
        if releases.release_of(onnxruntime.__version__)[:2] <= releases.ONNX_RUNTIME_KNOWN:
            assert f"onnxruntime {onnxruntime.__version__} is here" in opsets[str(newest + 1)].missing[0]
            with pytest.raises(Exception, match="opset"):  # and so says the runtime itself
                onnxruntime.InferenceSession(model(newest + 1), providers=["CPUExecutionProvider"])
