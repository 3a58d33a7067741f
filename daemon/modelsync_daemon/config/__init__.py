"""The daemon's settings: what can be set (settings.py), and where it is read from (reading.py).

It imports no other room, reads only the files that it is given, and starts nothing.
"""

from modelsync_daemon.config.reading import from_environment, from_mapping, load
from modelsync_daemon.config.settings import (
    BROKER_PORTS,
    LOG_FORMATS,
    MAX_KEEP_ALIVE_SECONDS,
    SETTINGS,
    Settings,
    Tables,
    check_broker,
    parse_listening,
)

__all__ = [
    "BROKER_PORTS",
    "LOG_FORMATS",
    "MAX_KEEP_ALIVE_SECONDS",
    "SETTINGS",
    "Settings",
    "Tables",
    "check_broker",
    "from_environment",
    "from_mapping",
    "load",
    "parse_listening",
]
