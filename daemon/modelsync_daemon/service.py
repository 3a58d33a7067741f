"""`modelsyncd run`: puts the resident daemon together, runs it until SIGTERM, and takes it down within seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
from typing import TYPE_CHECKING

from modelsync_daemon.config import Settings
from modelsync_daemon.confinement import layers
from modelsync_daemon.control.plane import ControlPlane
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.local.logs import Recent
from modelsync_daemon.local.metrics_http import MetricsHttp
from modelsync_daemon.local.notify import Notify
from modelsync_daemon.local.socket_api import SocketApi
from modelsync_daemon.resident import Resident
from modelsync_daemon.timing import start_spread
from modelsync_daemon.workers.worker_client import ChildPreparer
from modelsync_daemon.workers.zygote import Zygote
from modelsync_protocol.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from modelsync_daemon.consumers.configured import Configured
    from modelsync_daemon.site.neighbourhood import Neighbourhood

_log = logging.getLogger(__name__)


async def serve(settings: Settings, zygote: Zygote | None = None, recent: Recent | None = None) -> None:
    """Run until SIGTERM or SIGINT; workers are forked off `zygote`, if given. Raises ModelsyncError at the start.

    `recent`: the log's last records, which whoever asks on the socket is shown.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    for key, path in (("trust", settings.trust), ("origin_ca", settings.origin_ca)):
        if path is not None and not path.is_file():
            raise UsageError(f"the setting {key} names {path}, which is not a file.")
    _check_confinement(settings)
    consumers = _consumers(settings)
    data = DataDir(settings.data)
    with data.lock() as lock, contextlib.closing(Database.open(data)) as database:
        neighbourhood = _neighbourhood(settings, data)
        preparer = ChildPreparer(lock, zygote=zygote, always_ready=settings.ready_worker)
        resident = Resident(
            settings,
            data,
            database,
            preparer,
            _plane(settings),
            first_pause=start_spread.first_pause(settings.startup_spread_seconds, start_spread.machine_uptime()),
            neighbours=neighbourhood.access if neighbourhood is not None else lambda: None,
            consumers=consumers,
            noticed=preparer.expect,
        )
        if neighbourhood is not None:
            await neighbourhood.start(resident.device)
        api = SocketApi(
            resident.commands, resident.processes, data.socket, settings.socket_group, settings.metrics, recent
        )
        await api.start()
        scraped = _metrics(resident, settings)
        if scraped is not None:
            await scraped.start()
        notify = Notify()
        work = asyncio.ensure_future(resident.run())
        watchdog = asyncio.ensure_future(notify.watchdog())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            notify.ready(f"data in {data.root}")
            _log.info("ready, data in %s", data.root)
            if settings.ready_worker:
                preparer.expect()
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            notify.status("stopping")
            for task in (work, watchdog, stopped):
                task.cancel()
            await asyncio.gather(work, watchdog, stopped, return_exceptions=True)
            await preparer.close()
            await api.stop()
            if scraped is not None:
                await scraped.stop()
            if neighbourhood is not None:
                await neighbourhood.stop()


def _check_confinement(settings: Settings) -> None:
    lacking = layers.available().lacking
    if lacking and settings.require_confinement:
        raise RefusedError(f"require_confinement is set, and {' '.join(lacking)}")
    for sentence in lacking:
        _log.warning("%s", sentence)


def _metrics(resident: Resident, settings: Settings) -> MetricsHttp | None:
    if settings.metrics_address is None:
        return None

    def render() -> tuple[bytes, str]:
        from modelsync_daemon.local import metrics  # costs memory only where somebody scrapes

        return metrics.render(resident.commands.status(), resident.processes)

    return MetricsHttp(render, settings.metrics_address)


def _neighbourhood(settings: Settings, data: DataDir) -> Neighbourhood | None:
    if settings.site_address is None:
        shutil.rmtree(data.root / "site", ignore_errors=True)  # of when there was one
        return None
    from modelsync_daemon.site.neighbourhood import Neighbourhood  # nothing of it is awake where there is no site

    return Neighbourhood(settings, data)


def _consumers(settings: Settings) -> Configured | None:
    if settings.models is None and settings.consumers is None:
        return None
    from modelsync_daemon.consumers import configured  # nothing of it is awake where all follow the pointers

    return configured.of(settings)


def _plane(settings: Settings) -> ControlPlane | None:
    if not settings.has_hub:
        return None
    settings.read_connection_string()  # what is wrong on this machine ends the daemon at once
    settings.read_ca()
    settings.read_control_password()
    if settings.control_kind == "mqtt":
        from modelsync_daemon.control.broker import BrokerControlPlane  # each imports nothing of the others'

        return BrokerControlPlane(settings)
    if settings.control_kind == "aws":
        from modelsync_daemon.control.aws import AwsControlPlane

        return AwsControlPlane(settings)
    if settings.control_client == "own":
        from modelsync_daemon.control.iothub import HubControlPlane

        return HubControlPlane(settings)
    from modelsync_daemon.control.azure import AzureControlPlane  # 20 MiB that a daemon without a hub does not need

    return AzureControlPlane(settings)
