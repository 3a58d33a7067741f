"""What the hub answers when it refuses: IoT Hub's status, numeric code, name and body. No I/O here.

Bodies as IoT Hub sends them: `{"Message":"ErrorCode:NAME;TEXT","ExceptionMessage":"Tracking ID:…"}`; direct
methods and MQTT carry `{"errorCode":N,"trackingId":…,"message":…,"info":{…},"timestampUtc":…}` instead.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any


class HubError(Exception):
    """A request that the hub refuses; `status` is both the HTTP status and the twin topic's status."""

    def __init__(self, code: int, name: str, message: str, *, info: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = code // 1000
        self.code = code
        self.name = name
        self.message = message
        self.info = info

    def detail(self) -> dict[str, Any]:
        """The numeric form, as MQTT and direct methods carry it."""
        now = datetime.now(UTC)
        return {
            "errorCode": self.code,
            "trackingId": _tracking(now),
            "message": self.message,
            "info": self.info or {},
            "timestampUtc": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def body(self) -> dict[str, str]:
        """The REST form; errors with `info` come from direct methods and nest the numeric form."""
        if self.info is not None:
            return {"Message": json.dumps(self.detail(), separators=(",", ":")), "ExceptionMessage": ""}
        return {
            "Message": f"ErrorCode:{self.name};{self.message}",
            "ExceptionMessage": f"Tracking ID:{_tracking(datetime.now(UTC))}",
        }


def _tracking(now: datetime) -> str:
    return f"{uuid.uuid4().hex}-G:0-TimeStamp:{now:%m/%d/%Y %H:%M:%S}"


def argument_invalid(message: str) -> HubError:
    return HubError(400004, "ArgumentInvalid", message)


def unauthorised(message: str) -> HubError:
    return HubError(401002, "IotHubUnauthorizedAccess", f"Unauthorized: {message}.")


def device_not_found(name: str) -> HubError:
    return HubError(404001, "DeviceNotFound", name)


def module_not_found(name: str) -> HubError:
    return HubError(404010, "ModuleNotFound", name)


def device_exists(name: str) -> HubError:
    return HubError(409001, "DeviceAlreadyExists", f"A device with ID '{name}' is already registered.")


def module_exists(name: str) -> HubError:
    return HubError(409301, "ModuleAlreadyExistsOnDevice", f"A module '{name}' is already registered.")


def precondition_failed() -> HubError:
    return HubError(412001, "PreconditionFailed", "Precondition failed: the ETag does not match.")


def not_online(waited: float) -> HubError:
    return HubError(
        404103, "DeviceNotOnline", "Timed out waiting for device to connect.", info={"timeout": clock_text(waited)}
    )


def method_timed_out() -> HubError:
    return HubError(504101, "GatewayTimeout", "Timed out waiting for the response from device.", info={})


def clock_text(seconds: float) -> str:
    """Seconds as `hh:mm:ss`, the form of IoT Hub's `info.timeout`."""
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
