"""Fuzz targets of what servers read: inference requests, probe files, workers' messages, MQTT, REST. No sockets here.

Workers count as strangers: they run models, and some of them run code that came with a model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, Final, cast

from modelsync_inference.errors import InputError
from modelsync_inference.http import oip
from modelsync_inference.model.lease import Prediction
from modelsync_inference.model.probe import parse_probe
from modelsync_inference.processes import wire
from modelsync_protocol.mqtt import codec as mqtt
from modelsync_server import query
from modelsync_server.hub.configurations import model as configuration
from modelsync_server.iothub import twin_document
from modelsync_server.iothub.errors import HubError
from modelsync_server.iothub.sas import SasError
from modelsync_server.iothub.sas import parse as parse_sas
from modelsync_server.rollout import record


def infer_request(data: bytes) -> None:
    """What is understood can be answered; the first two bytes say how long the JSON part is (0: no binary part)."""
    length, body = int.from_bytes(data[:2], "little"), data[2:]
    with contextlib.suppress(InputError):
        request = oip.parse_request(body, str(length) if length else None)
        wanted = request.inputs if request.outputs is None else {}
        answer = oip.build_answer("m", request, Prediction(wanted, 1, "0" * 64))
        assert answer.header_length is None or answer.header_length <= len(answer.body)


def probe_file(data: bytes) -> None:
    """A probe is understood or refused."""
    parse_probe(data)


class _Bytes:
    """As much of a socket as a reader of messages uses."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def recv_into(self, view: memoryview) -> int:
        part, self._left = self._left[: len(view)], self._left[len(view) :]
        view[: len(part)] = part
        return len(part)

    def gettimeout(self) -> None:
        return None

    def settimeout(self, _: float | None) -> None:
        pass


def worker_message(data: bytes) -> None:
    """A message is read or the connection is given up, and no claim makes room for more than is there."""
    with contextlib.suppress(wire.Ended):
        wire.receive(cast(Any, _Bytes(data)))


def mqtt_packets(data: bytes) -> None:
    """Packets come out the same in whichever slices the bytes arrive, and those accepted can be written again."""

    def packets(step: int) -> list[object]:
        decoder = mqtt.Decoder()
        found: list[object] = []
        try:
            for start in range(0, len(data), step):
                found.extend(decoder.feed(data[start : start + step]))
        except mqtt.MqttError:
            found.append("refused")
        return found

    whole = packets(max(len(data), 1))
    if len(data) <= 4096:
        assert packets(1) == whole
    for packet in whole:
        if packet != "refused":
            again = list(mqtt.Decoder().feed(mqtt.encode(cast(Any, packet))))
            assert again == [packet]


def sas_token(data: bytes) -> None:
    """A token is understood or refused."""
    with contextlib.suppress(SasError, UnicodeDecodeError):
        parse_sas(data.decode())


def hub_query(data: bytes) -> None:
    """A query, or a target condition, is understood or refused; what is understood answers for any document."""
    text = data.decode("utf-8", "replace")
    documents = [{}, {"deviceId": "a", "tags": {"x": [1], "y": {"z": None}}, "properties": {"reported": {"v": "s"}}}]
    with contextlib.suppress(HubError):
        condition = query.parse_condition(text)
        assert {condition(document) for document in documents} <= {True, False, None}
    with contextlib.suppress(HubError):
        found = query.parse(text)
        for document in documents:
            found.matches(document)
        rows = found.grouped(documents) if found.counts else [found.project(each) for each in documents]
        json.dumps(rows)


def hub_configuration(data: bytes) -> None:
    """A configuration's body is accepted or refused; what is accepted can be shown and stored."""
    with contextlib.suppress(HubError):
        made = configuration.from_body("c", twin_document.parse_object(data), "2026-01-01T00:00:00Z", None)
        json.dumps(made.document({}, {}))
        assert configuration.load("c", made.dump()) == made
        made.own_parts(), made.module_parts()


def rollout_labels(data: bytes) -> None:
    """Labels that somebody edited are a rollout or are refused; one that was read is written back the same."""
    with contextlib.suppress(ValueError, RecursionError):
        found = record.parse(json.loads(data), "")
        assert record.parse(found.labels(), "") == found


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "hub-configuration": hub_configuration,
    "hub-query": hub_query,
    "infer-request": infer_request,
    "mqtt": mqtt_packets,
    "probe": probe_file,
    "rollout-labels": rollout_labels,
    "sas": sas_token,
    "worker-message": worker_message,
}
