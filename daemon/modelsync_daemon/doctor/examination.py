"""Runs all of the doctor's looks in order, causes before consequences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelsync_daemon import config
from modelsync_daemon.config import Settings
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.doctor import applications, data_directory, machine, network
from modelsync_protocol.errors import UsageError
from modelsync_protocol.findings import Finding, good, problem


def examine(
    config_file: Path | None, data: Path | None, environment: Mapping[str, str], *, online: bool = True
) -> list[Finding]:
    """All findings. Settings are those of `config_file`, else of IoT Edge's environment, else only `data` is known.

    `online` False asks neither origin nor hub: on a metered line they cost a few KB. UsageError if nothing is named.
    """
    found: list[Finding] = []
    settings = None
    if config_file is not None or data is None:
        try:
            settings = config.load(config_file) if config_file else config.from_environment(environment)
        except UsageError as error:
            if config_file is None:
                raise UsageError(
                    "there is nothing to look at: name settings (--config) or a directory (--data)."
                ) from error
            mend = f"edit {config_file}" if config_file.exists() else "modelsyncd doctor --config FILE"
            found.append(problem("config", str(error), mend, error.exit_code))
        else:
            found.append(good("config", "the settings are readable and make sense."))
            found += machine.secrets(settings, config_file)
            found += machine.libraries(settings)
    root = settings.data if settings else data
    if root is None:
        return found
    found += machine.confinement(settings is not None and settings.require_confinement)
    found += machine.core()
    if settings is not None:
        found += applications.examine(settings)
    found += _device(root, settings, online)
    return found


def _device(root: Path, settings: Settings | None, online: bool) -> list[Finding]:
    directory = DataDir(root)
    usable, found = data_directory.examine(directory)
    if usable:
        found += machine.clock(directory)
        found += machine.room(directory)
        found += machine.daemon(directory)
    if settings is not None and online:
        found += network.origin(settings, directory)
        found += network.hub(settings)
    return found
