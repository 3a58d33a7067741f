"""What one message a second costs upstream: raw, scored at the edge, and down-sampled.

`python -m bench.edge [--messages N]` sends N readings of a machine (167 numbers each, as `examples/anomaly` takes them)
through a hub to `modelsync-infer --edge`, as processes and at full speed. What the routes let through to the cloud is
sent again by the SDK over MQTT and TLS to a second hub, through a counting relay; both directions count, headers of
TCP and IP do not. An hour is 3,600/N of that. edgeHub's own line to Azure is AMQP by default: its framing differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from azure.iot.device import Message as SdkMessage
from azure.iot.device.aio import IoTHubDeviceClient

from examples.demo.relay import Relay
from examples.demo.stage import free_address
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.edge_world import ROUTES, EdgeWorld

_HIDDEN_PORT = 28883
_FEATURES = 167
_RAW = {"raw": "FROM /messages/modules/sensor/outputs/readings INTO $upstream"}
_WAYS: dict[str, tuple[str, ...] | None] = {
    "raw": None,
    "scored": (),
    "scored, every:10": ("--edge-sample", "every:10"),
    "scored, change:probabilities=0.1": ("--edge-sample", "change:probabilities=0.1"),
    "scored, mean:60": ("--edge-sample", "mean:60"),
    "scored with inputs, mean:60": ("--edge-sample", "mean:60", "--edge-include-inputs"),
}


async def measure(count: int) -> dict[str, Any]:
    """Every way once."""
    rng = np.random.default_rng(1)
    level = rng.normal(size=_FEATURES)
    readings = [{"X": np.round(level + rng.normal(scale=0.05, size=_FEATURES), 3).tolist()} for _ in range(count)]
    found = {way: await _way(options, readings) for way, options in _WAYS.items()}
    raw = found["raw"]["bytes_per_hour"]
    return {way: {**row, "share_of_raw": round(row["bytes_per_hour"] / raw, 4)} for way, row in found.items()}


async def _way(options: tuple[str, ...] | None, readings: list[Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="modelsync-edge-") as scratch:
        upstream = await _upstream(Path(scratch), options, readings)
        line = await _line(Path(scratch), upstream)
    hour = 3600 / len(readings)
    return {
        "messages_per_hour": round(len(upstream) * hour),
        "bodies_per_hour": round(sum(len(_body(item)) for item in upstream) * hour),
        "bytes_per_hour": round(line * hour),
    }


async def _upstream(root: Path, options: tuple[str, ...] | None, readings: list[Any]) -> list[dict[str, Any]]:
    world = EdgeWorld(root, free_address(8883))
    try:
        await world.start_hub()
        await world.set_routes(_RAW if options is None else ROUTES)
        if options is not None:
            model = (Path(__file__).parents[1] / "examples" / "anomaly" / "v1" / "model.onnx").read_bytes()
            world.data.point("current", world.data.install(1, {"model.onnx": model}), 1)
            await world.start_scorer("--edge-queue", str(len(readings)), *options)
        async with world.sensor() as send:
            for number, reading in enumerate(readings):
                await send(reading, message_id=f"m-{number}")
        if options is not None:
            while (await world.metrics())["scored_total"] < len(readings):  # noqa: ASYNC110  # of another process
                await asyncio.sleep(0.1)
            await world.stop_scorer()
        return world.upstream()
    finally:
        await world.close()


async def _line(root: Path, upstream: list[dict[str, Any]]) -> int:
    host = free_address(8883)
    async with (
        Hub(root / "cloud", HubAddress(host, _HIDDEN_PORT, 0)) as hub,
        Relay(host, _HIDDEN_PORT, host, 8883) as relay,
    ):
        text = hub.add_device("pi")
        client: Any = IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=hub.ca_pem)
        await client.connect()
        before = relay.counts()
        for item in upstream:
            await client.send_message(_message(item))
        spent = relay.counts() - before
        await client.shutdown()
        return spent.up + spent.down


def _message(item: dict[str, Any]) -> Any:
    kind: Any = SdkMessage
    properties = item["properties"]
    message = kind(_body(item), properties.get("$.mid"), properties.get("$.ce"), properties.get("$.ct"))
    message.correlation_id = properties.get("$.cid")
    message.custom_properties.update({name: value for name, value in properties.items() if not name.startswith("$")})
    return message


def _body(item: dict[str, Any]) -> bytes:
    return json.dumps(item["body"], separators=(",", ":")).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--messages", type=int, default=600, help="how many readings; a multiple of 60 has no open window"
    )
    json.dump(asyncio.run(measure(parser.parse_args().messages)), sys.stdout, indent=2)
    sys.stdout.write("\n")
