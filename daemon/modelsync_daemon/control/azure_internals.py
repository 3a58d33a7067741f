"""The two places where azure-iot-device's private parts are touched: its sockets' bytes and its token alarm.

Nothing depends on them: where another SDK version looks different, there are no figures and it renews tokens itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

from modelsync_daemon.transfer import tcp_info

_log = logging.getLogger(__name__)


def stop_token_alarm(client: Any) -> bool:
    """End the thread that looks at the clock once a second until the token is to be renewed; False if there is none.

    It is half of the SDK's wake-ups. The caller connects anew in good time instead.
    """
    for stage in _stages(client):
        alarm = getattr(stage, "_token_update_alarm", None)
        if alarm is not None:
            alarm.cancel()
            return True
    return False


class SocketCounter:
    """Adds up the bytes of the SDK's successive sockets (called on its threads)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: Any = None
        self._done = (0, 0)

    def attach(self, client: Any) -> None:
        """Hook into the client's MQTT library."""
        for stage in _stages(client):
            mqtt = getattr(getattr(stage, "transport", None), "_mqtt_client", None)
            if mqtt is not None:
                mqtt.on_socket_open = lambda client, userdata, connection: self._opened(connection)
                mqtt.on_socket_close = lambda client, userdata, connection: self._closed(connection)
                return
        _log.warning("the hub connection's bytes can't be counted with this azure-iot-device.")

    def total(self) -> tuple[int, int]:
        """Received and sent so far."""
        with self._lock:
            received, sent = tcp_info.carried(self._current) if self._current is not None else (0, 0)
            return self._done[0] + received, self._done[1] + sent

    def _opened(self, connection: Any) -> None:
        with self._lock:
            self._current = _tcp(connection)

    def _closed(self, connection: Any) -> None:
        with self._lock:
            received, sent = tcp_info.carried(_tcp(connection))
            self._done = (self._done[0] + received, self._done[1] + sent)
            self._current = None


def _tcp(connection: Any) -> Any:
    """The socket under paho's WebSocket wrapper."""
    return connection if hasattr(connection, "getsockopt") else getattr(connection, "_socket", connection)


def _stages(client: Any) -> Iterator[Any]:
    # A hub client has `_mqtt_pipeline`, the provisioning client `_pipeline`.
    pipeline = getattr(client, "_mqtt_pipeline", None) or getattr(client, "_pipeline", None)
    stage = getattr(pipeline, "_pipeline", None)
    while stage is not None:
        yield stage
        stage = getattr(stage, "next", None)
