"""A broker in the place of a hub's service side, at a real Mosquitto: twins, lists, writers at one moment, calls."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_protocol.mqtt import broker
from modelsync_server.broker.address import is_broker, parse
from modelsync_server.broker.opening import open_service
from modelsync_server.broker.service import BrokerService
from modelsync_server.broker.session import connected
from modelsync_server.iothub.service_client import ConflictError, NotFoundError, NotOnlineError
from tests.support.addresses import free_port
from tests.support.mosquitto import Mosquitto, mosquitto


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker", more="max_queued_messages 0") as made:
        yield made


def modelsync(*arguments: str, service: str) -> subprocess.CompletedProcess[str]:
    """The command, as somebody runs it."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("modelsync")), *arguments, "--service", service],
        capture_output=True,
        text=True,
        timeout=240,
    )


async def test_of_writers_at_the_same_moment_no_change_is_lost(served: Mosquitto) -> None:
    async def one(number: int) -> None:
        async with BrokerService(parse(served.url)) as service:
            await service.set_desired("pi", {"modelsync": {"models": {f"m{number}": {"version": number + 1}}}})

    await asyncio.gather(*(one(number) for number in range(6)))
    async with BrokerService(parse(served.url)) as service:
        desired = (await service.twin("pi"))["properties"]["desired"]
    assert set(desired["modelsync"]["models"]) == {f"m{number}" for number in range(6)}


async def test_versions_rise_and_never_stand_below_the_clock(served: Mosquitto) -> None:
    async with BrokerService(parse(served.url)) as service:
        first = await service.set_desired("pi", {"a": 1})
        second = await service.set_desired("pi", {"a": 2})
        assert second["version"] > first["version"] > 1_700_000_000
        with pytest.raises(ConflictError, match="changed meanwhile"):
            await service.set_desired("pi", {"a": 3}, etag=first["etag"])
        third = await service.set_desired("pi", {"a": None, "b": 1}, etag=second["etag"])
        assert third["properties"]["desired"] == {"b": 1, "$version": third["version"]}
    assert broker.next_version(None, 5.0) == 5 and broker.next_version(9, 5.0) == 10
    assert broker.next_version(2**52 - 1, 0.0) == 2**52 - 1


async def test_a_fleet_is_listed_and_counted_by_the_query_language(served: Mosquitto) -> None:
    async with connected(parse(served.url)) as session:
        for number in range(400):
            model = {"version": 1 + number % 2, "state": "active"}
            root = f"modelsync/d{number:03}"
            await session.client.publish(f"{root}/reported/models/a", broker.encode(model), qos=0, retain=True)
            await session.client.publish(f"{root}/reported/daemon", b'{"version":"1"}', qos=0, retain=True)
            await session.client.publish(f"{root}/presence", b'{"online":true}', qos=0, retain=True)
        await session.client.ping()
    async with BrokerService(parse(served.url)) as service:
        await service.update_twin("d007", {"tags": {"ring": "canary"}})
        rows, token = await service.query_page(
            "SELECT properties.reported.modelsync.models.a.version AS version, COUNT() AS devices FROM devices "
            "GROUP BY properties.reported.modelsync.models.a.version"
        )
        assert sorted((row["version"], row["devices"]) for row in rows) == [(1, 200), (2, 200)] and token is None
        assert [
            twin["deviceId"] async for twin in service.query("SELECT * FROM devices WHERE tags.ring = 'canary'")
        ] == ["d007"]
        assert len((await service.query_page("SELECT TOP 3 * FROM devices"))[0]) == 3
        assert (await service.query_page("SELECT * FROM devices.modules"))[0] == []
        with pytest.raises(UsageError, match="query"):
            await service.query_page("SELECT nonsense")


async def test_what_a_broker_has_not_is_refused_in_a_sentence(served: Mosquitto) -> None:
    async with BrokerService(parse(served.url)) as service:
        with pytest.raises(NotFoundError, match="keeps nothing of pi"):
            await service.twin("pi")
        assert await service.configurations() == []
        for call in (
            service.put_configuration("x", {}),
            service.delete_configuration("x"),
            service.change_registry([]),
            service.twin("pi", "module"),
            service.twin("a/b"),
            service.twin("+"),
            service.set_desired("pi", {"a.b": 1}),
            service.set_desired("pi", {"a": {str(n): "x" * 4000 for n in range(9)}}),
        ):
            with pytest.raises(UsageError):
                await call
        with pytest.raises(NotOnlineError, match="not connected"):
            await service.invoke("pi", "status")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mqtts://", "looks like"),
        ("mqtts://host:0", "looks like"),
        ("mqtts://host:x", "looks like"),
        ("mqtts://user:s3cret@host?what=1", "'what' is no option"),
        ("mqtts://host?cert=a", "belong together"),
        ("mqtts://host/a+b", "can't begin a topic"),
    ],
)
def test_a_url_that_is_none_is_said_without_its_password(url: str, said: str) -> None:
    assert is_broker(url)
    with pytest.raises(UsageError, match=said) as caught:
        open_service(url)
    assert "s3cret" not in str(caught.value)


def test_a_url_in_its_parts() -> None:
    made = parse("mqtts://op%40x:p%2Fw@b.example:99/site7/modelsync?ca=c.pem")
    assert (made.host, made.port, made.tls, made.prefix) == ("b.example", 99, True, "site7/modelsync")
    assert (made.user, made.password, made.ca, made.aws) == ("op@x", "p/w", "c.pem", False)
    assert not is_broker("HostName=x;SharedAccessKeyName=y;SharedAccessKey=z") and parse("aws://x?cert=a&key=b").aws


async def test_a_broker_that_is_away_or_refuses(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="can't be reached"):
        async with BrokerService(parse(f"mqtt://127.0.0.1:{free_port()}")):
            pass
    with mosquitto(tmp_path / "broker", users={"operator": "right"}) as served:
        for user in ("", "operator:wrong@"):
            with pytest.raises(RefusedError, match="refuses the connection"):
                async with BrokerService(parse(served.url.replace("//", f"//{user}"))):
                    pass


@pytest.mark.long
def test_the_commands_speak_to_a_broker(served: Mosquitto) -> None:
    wish = json.dumps({"modelsync": {"models": {"anomaly": {"version": 2}}}})
    assert modelsync("twin", "set", "pi", wish, service=served.url).returncode == 0
    shown = json.loads(modelsync("twin", "get", "pi", service=served.url).stdout)
    assert shown["properties"]["desired"]["modelsync"]["models"] == {"anomaly": {"version": 2}}
    assert modelsync("twin", "list", service=served.url).stdout.splitlines()[1].split() == ["pi", "Disconnected"]
    away = modelsync("twin", "invoke", "pi", "status", service=served.url)
    assert (away.returncode, away.stderr) == (4, "modelsync: pi is not connected; try again when it is online.\n")
    refused = modelsync("twin", "get", "pi", "--module", "x", service=served.url)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
