"""The control plane at a real Mosquitto: what a broker forgets, refuses, mixes up or floods a device with."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelsync_daemon.config import Settings
from modelsync_daemon.control.broker import BrokerControlPlane
from modelsync_daemon.control.hub_link import HubLink
from modelsync_daemon.control.mqtt_line import Endpoint, MqttLine
from modelsync_daemon.control.outbox import Outbox
from modelsync_daemon.control.plane import MethodAnswer
from modelsync_daemon.disk import control_state
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.ledger import Ledger
from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_protocol.mqtt import broker
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server.broker.address import parse
from modelsync_server.broker.service import BrokerService
from modelsync_server.broker.session import connected
from modelsync_server.hub.certificates import issue_client
from modelsync_server.hub.hub import Hub, HubAddress
from tests.rooms import ROOT, package
from tests.support.addresses import loopback_address
from tests.support.certificates import Authority
from tests.support.mosquitto import Mosquitto, mosquitto
from tests.support.waiting import until, within

DESIRED = "modelsync/pi/desired"


def settings(root: Path, served: Mosquitto, **more: Any) -> Settings:
    root.mkdir(exist_ok=True)
    return Settings(**{"data": root, "control_kind": "mqtt", "control_url": served.url, "control_device": "pi", **more})


@contextlib.asynccontextmanager
async def device(root: Path, served: Mosquitto, **more: Any) -> AsyncIterator[BrokerControlPlane]:
    """A connected plane that answers each call with what it was called with."""
    plane = BrokerControlPlane(settings(root, served, **more), call_seconds=2.0)

    async def answer(name: str, payload: Any) -> MethodAnswer:
        return MethodAnswer(200, {"name": name, "payload": payload})

    plane.listen(lambda version: None, answer)
    await within(plane.connect())
    try:
        yield plane
    finally:
        await plane.close()


async def publish(served: Mosquitto, topic: str, payload: bytes, retain: bool = True) -> None:
    """As anybody could, with mosquitto_pub."""
    async with connected(parse(served.url)) as session:
        await session.client.publish(topic, payload, retain=retain)


async def twin(served: Mosquitto) -> dict[str, Any]:
    async with BrokerService(parse(served.url)) as service:
        return await service.twin("pi")


def test_both_copies_of_the_client_are_the_same() -> None:
    copies = [package("daemon") / "control", package("server") / "broker"]
    assert len({(place / "mqtt_client.py").read_text() for place in copies}) == 1


# What a broker forgets


async def test_a_broker_that_forgets_changes_nothing_and_is_told_everything_again(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as served:
        async with device(tmp_path / "pi", served) as plane:
            async with BrokerService(parse(served.url)) as service:
                before = await service.set_desired("pi", {"modelsync": {"models": {"a": {"version": 1}}}})
            await until(lambda: broker.version_of(plane._desired), "the wish")
            read = await plane.read_twin()
            await plane.patch_reported(
                {"modelsync": {"models": {"a": {"state": "active"}}, "daemon": {"version": "1"}}}
            )
            served.stop()  # it has no persistence
            await within(plane.wait_lost())
            served.start()
            await within(plane.connect())
            again = await within(plane.read_twin())
            assert again.desired == read.desired and again.reported == {}, "the outbox sees that nothing is shown"
            found = await twin(served)
            assert "lost" in found["problem"] and found["connectionState"] == "Connected"
            async with BrokerService(parse(served.url)) as service:
                after = await service.set_desired("pi", {"modelsync": {"models": {"a": {"version": 2}}}})
            assert after["version"] > before["version"], "it begins above what the device has followed"
            await until(lambda: plane._desired["modelsync"]["models"]["a"] == {"version": 2}, "the new wish")

            async def mended() -> bool:
                return "problem" not in await twin(served)

            await until(mended, "the problem's end")


async def test_older_desired_properties_never_overtake_newer_ones_even_after_a_restart(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as served:
        new = {"$version": 9, "modelsync": {"models": {"a": {"version": 2}}}}
        await publish(served, DESIRED, json.dumps(new).encode())
        async with device(tmp_path / "pi", served) as plane:
            assert (await plane.read_twin()).desired == new
        # As a broker that was restored from last week's copy.
        await publish(served, DESIRED, b'{"$version":8,"modelsync":{"models":{"a":{"version":1}}}}')
        async with device(tmp_path / "pi", served) as plane:
            assert (await plane.read_twin()).desired == new
            assert (await plane.read_twin()).desired == new
            assert "version 8" in (await twin(served))["problem"]
            await publish(served, DESIRED, b'{"$version":10}')
            await until(lambda: plane._desired == {"$version": 10}, "the newest")
        async with device(tmp_path / "other", served) as plane:
            assert (await plane.read_twin()).desired == {"$version": 10}, "who knows nothing takes what is there"


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "not a JSON object"),
        (b"\xff", "is not JSON"),
        (b'{"$version": "9"}', "whole number"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "too deep"),
        (b"[" * 100_000, "too deep"),
        (b"", "deleted"),
    ],
)
async def test_desired_properties_that_nobody_can_read_are_said_and_not_followed(
    tmp_path: Path, payload: bytes, said: str
) -> None:
    with mosquitto(tmp_path / "broker") as served:
        known = {"$version": 5, "modelsync": {"models": {}}}
        await publish(served, DESIRED, json.dumps(known).encode())
        async with device(tmp_path / "pi", served) as plane:
            await plane.read_twin()
            await publish(served, DESIRED, payload)

            async def told() -> bool:
                return said in str((await twin(served)).get("problem"))

            await until(told, said)
            assert (await plane.read_twin()).desired == known
            async with BrokerService(parse(served.url)) as service:
                await service.set_desired("pi", {"modelsync": {"models": {"a": {"version": 3}}}})
            await until(lambda: plane._desired["modelsync"]["models"] == {"a": {"version": 3}}, "what was set anew")


async def test_what_was_written_by_hand_needs_no_version(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as served:
        await publish(served, DESIRED, b'{"modelsync":{"models":{"a":{"version":1}}}}')
        async with device(tmp_path / "pi", served) as plane:
            assert (await plane.read_twin()).desired["modelsync"]["models"] == {"a": {"version": 1}}
            await publish(served, DESIRED, b'{"modelsync":{"models":{"a":{"version":2}}}}')
            await until(lambda: plane._desired["modelsync"]["models"]["a"]["version"] == 2, "the second")


# What it refuses


async def test_a_wrong_password_is_a_refusal_with_words_and_a_right_one_may_be_rotated(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    with mosquitto(tmp_path / "broker", users={"pi": "right"}) as served:
        for protocol in ("5", "3.1.1"):
            made = settings(
                tmp_path / "pi", served, control_user="pi", control_password_file=secret, control_protocol=protocol
            )
            plane = BrokerControlPlane(made)
            with pytest.raises(RefusedError, match=r"refuses the connection: .*(password|authorise)"):
                await within(plane.connect())
            secret.write_text("right\n")
            await within(plane.connect())
            assert plane.connected
            await plane.close()
            secret.write_text("wrong\n")
        secret.unlink()
        with pytest.raises(UsageError, match="control_password_file"):
            await within(plane.connect())


async def test_the_example_access_list_lets_a_device_report_and_no_more(tmp_path: Path) -> None:
    access = (ROOT / "deploy" / "mqtt" / "acl").read_text()
    users = {"pi": "a", "other": "b", "operator": "c"}
    secret = tmp_path / "secret"
    secret.write_text("a")
    with mosquitto(tmp_path / "broker", users=users, access=access) as served:
        operator = parse(served.url.replace("//", "//operator:c@"))
        made = settings(tmp_path / "pi", served, control_user="pi", control_password_file=secret)
        async with BrokerService(operator) as service:
            await service.set_desired("pi", {"modelsync": {"models": {"a": {"version": 1}}}})
            await service.set_desired("other", {"modelsync": {"models": {"secret": {"version": 1}}}})
            async with device(tmp_path / "pi", served, control_user="pi", control_password_file=secret) as plane:
                assert (await plane.read_twin()).desired["modelsync"]["models"] == {"a": {"version": 1}}
                await plane.patch_reported({"modelsync": {"models": {"a": {"state": "active"}}}})
                assert (await service.invoke("pi", "status")).payload["name"] == "status"
            assert (await service.twin("pi"))["properties"]["reported"]["modelsync"]["models"]["a"]["state"] == "active"
        spy = BrokerService(parse(served.url.replace("//", "//pi:a@")))
        async with spy:
            assert (
                list((await spy.query_page("SELECT * FROM devices"))[0][0])
                and not (await spy.query_page("SELECT * FROM devices WHERE deviceId = 'other'"))[0]
            ), "a device's password shows no other device"
            with pytest.raises(RefusedError, match="access list"):
                await spy.set_desired("pi", {"modelsync": {"models": {"a": {"version": 7}}}})
        stranger = BrokerControlPlane(
            Settings(**{**{name: getattr(made, name) for name in made.__slots__}, "control_device": "x"})
        )
        await within(stranger.connect())
        with pytest.raises(RefusedError, match=r"modelsync/x/reported/a: check its access list"):
            await within(stranger.patch_reported({"modelsync": {"a": 1}}))


async def test_a_client_certificate_says_who_a_device_is(tmp_path: Path) -> None:
    access = (ROOT / "deploy" / "mqtt" / "acl").read_text()
    with mosquitto(tmp_path / "broker", tls=True, client_certificates=True, access=access) as served:
        assert served.tls is not None
        issue_client(served.folder / "tls", "pi", tmp_path / "identity")
        keys = {"x509_cert": tmp_path / "identity" / "cert.pem", "x509_key": tmp_path / "identity" / "key.pem"}
        async with device(tmp_path / "pi", served, ca=served.tls.ca, **keys) as plane:
            await plane.patch_reported({"modelsync": {"a": 1}})
            received, sent = plane.wire()
            assert received > 500 and sent > 500
        with pytest.raises(UnreachableError):
            await within(BrokerControlPlane(settings(tmp_path / "x", served, ca=served.tls.ca)).connect())
        with pytest.raises(UnreachableError, match="certificate is not trusted"):
            await within(BrokerControlPlane(settings(tmp_path / "x", served, **keys)).connect())
        for wrong in ({"x509_cert": tmp_path / "none.pem", "x509_key": keys["x509_key"]}, {"ca": keys["x509_key"]}):
            with pytest.raises(UsageError):
                await within(BrokerControlPlane(settings(tmp_path / "x", served, **{**keys, **wrong})).connect())


async def test_a_clock_that_is_wrong_is_named_beside_the_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    context = authority.server("127.0.0.1", days=(-3, -1))

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        made = Settings(data=tmp_path, control_kind="mqtt", control_url=url, control_device="pi", ca=authority.path)
        with pytest.raises(UnreachableError, match=r"certificate is not trusted .*expired.*clock, which says 20"):
            await within(BrokerControlPlane(made).connect())


async def test_another_client_with_the_same_id_is_named_and_kept_for_the_doctor(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as served:
        async with device(tmp_path / "pi", served) as plane:
            async with device(tmp_path / "twin of pi", served):
                assert "closed it" in await within(plane.wait_lost()), "once may be an accident"
            await within(plane.connect())
            async with device(tmp_path / "twin of pi", served):
                with pytest.raises(RefusedError, match="control_device of its own"):
                    await within(plane.wait_lost())
            assert "another client" in control_state.read(tmp_path / "pi").problem


async def test_a_report_that_the_broker_would_drop_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker", more="max_packet_size 2000") as served:
        async with device(tmp_path / "pi", served) as plane:
            await plane.patch_reported({"modelsync": {"a": "x" * 1500}})
            with pytest.raises(RefusedError, match="has 3002 bytes, and the broker takes packets of 2000"):
                await plane.patch_reported({"modelsync": {"a": "x" * 3000}})


# The line


@pytest.mark.long
async def test_a_broker_that_stands_still_is_a_lost_line(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as served:
        async with device(tmp_path / "pi", served, control_keep_alive_seconds=5) as plane:
            served.freeze()
            sentence = await within(plane.wait_lost())
            assert "keep-alive" in sentence and not plane.connected
            with pytest.raises(UnreachableError):
                await plane.patch_reported({"modelsync": {"a": 1}})


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_the_presence_follows_a_device_that_leaves_and_one_that_is_killed(tmp_path: Path, protocol: str) -> None:
    async def gone() -> bool:
        return bool((await twin(served))["connectionState"] == "Disconnected")

    with mosquitto(tmp_path / "broker") as served:
        async with device(tmp_path / "pi", served, control_protocol=protocol):
            found = await twin(served)
            assert found["connectionState"] == "Connected" and found["lastActivityTime"] > "2020"
        await until(gone, "the goodbye")
        async with device(tmp_path / "pi", served, control_protocol=protocol) as plane:
            await until(lambda: plane.connected, "the connection")
            plane._line.client._stream.close()  # as a cut line
            await until(gone, "the will")
            assert (await twin(served))["lastActivityTime"] > "2020"


async def test_websockets_carry_the_same(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker", web=True) as served:
        async with device(tmp_path / "pi", served, control_url=f"ws://127.0.0.1:{served.web_port}/mqtt") as plane:
            await publish(served, DESIRED, b'{"$version":3}')
            await until(lambda: plane._desired == {"$version": 3}, "the wish")
            await plane.patch_reported({"modelsync": {"a": "y" * 20_000}})
            assert plane.wire()[1] > 20_000
            async with BrokerService(parse(served.url)) as service:
                assert (await service.invoke("pi", "status")).status == 200
        with pytest.raises(ModelsyncError):
            await within(
                BrokerControlPlane(
                    settings(tmp_path / "pi", served, control_url=served.url.replace("mqtt", "ws"))
                ).connect()
            )


async def test_a_broker_that_speaks_no_mqtt_5_is_spoken_to_in_3_1_1(tmp_path: Path, worker_id: str) -> None:
    """The local hub refuses version 5 as the standard says."""
    async with Hub(tmp_path / "hub", HubAddress(loopback_address(worker_id), service_port=0)) as hub:
        line = MqttLine(Settings(data=tmp_path, ca=hub.ca_path), "the broker", 5.0)
        where = Endpoint(hub.address.host, hub.address.device_port)
        with pytest.raises(RefusedError, match="authorise"):
            await line.open(where, mqtt.Connect("pi", username="x", password=b"y"), lambda packet: None, (5, 4))
        with pytest.raises(UnreachableError, match="does not speak MQTT 5"):
            await line.open(where, mqtt.Connect("pi"), lambda packet: None, (5,))


async def test_a_flood_of_wishes_is_one_reading_and_one_write(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "pi")
    with mosquitto(tmp_path / "broker") as served, data.lock(), contextlib.closing(Database.open(data)) as database:
        plane = BrokerControlPlane(settings(tmp_path / "pi", served))
        link = HubLink(plane, Outbox(database), Ledger(database), 3600.0)
        seen: list[int] = []

        async def answer(name: str, payload: Any) -> MethodAnswer:
            return MethodAnswer(200, {})

        task = asyncio.ensure_future(link.run(lambda desired: seen.append(desired.get("$version", 0)), answer))
        try:
            await until(lambda: seen, "the first reading")
            async with connected(parse(served.url)) as session:
                for version in range(1, 301):
                    await session.client.publish(DESIRED, broker.encode({"$version": version}), retain=True)
            await until(lambda: seen[-1] == 300, "the last wish")
            assert len(seen) < 30, "messages that follow each other closely are read once"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


# Calls


async def test_a_retained_call_is_left_alone_and_a_malformed_one_answered(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as served:
        await publish(served, "modelsync/pi/call/rollback/1", b"{}")
        async with (
            connected(parse(served.url)) as session,
            session.listening("modelsync/pi/answer/#") as heard,
            device(tmp_path / "pi", served),
        ):
            await session.client.publish("modelsync/pi/call/status/2", b"{")
            answer = await within(heard.get())
            assert answer.topic == "modelsync/pi/answer/2" and json.loads(answer.payload)["status"] == 400
            await session.client.publish("modelsync/pi/call/status/../3", b"")
            await session.client.publish("modelsync/pi/call/status/4", b"")
            assert (await within(heard.get())).topic == "modelsync/pi/answer/4"
