"""A site key that leaked: the twin names another, and the old one is refused at once, in both directions."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from modelsync_daemon.config import Settings
from modelsync_daemon.disk.spool import Spool
from modelsync_daemon.site.neighbourhood import Neighbourhood
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_protocol import site
from tests.daemon.fakes import Device, device
from tests.support.addresses import free_port
from tests.support.certificates import Authority
from tests.support.waiting import PATIENCE_SECONDS

TARGET = "packs/" + "a" * 64


class Keys:
    """A site's keys, one set of files after the other in the same places."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir()
        self.installed = self._files(root / "installed")
        self.install("old")

    def _files(self, folder: Path) -> dict[str, str]:
        return {name: str(folder / f"{name}.pem") for name in ("cert", "key", "ca")}

    def made(self, name: str) -> SiteAccess:
        """The set `name`, which is made if there is none."""
        folder = self._root / name
        if not folder.exists():
            authority = Authority(folder)
            authority.server()
            for part in ("cert", "key"):
                shutil.copy(folder / "127.0.0.1-1.pem", folder / f"{part}.pem")
        return SiteAccess("site", "127.0.0.1:1", (), "/x", 1, **self._files(folder))  # type: ignore[arg-type]

    def install(self, name: str, *parts: str) -> None:
        """Put files of the set where the daemon looks, as a tool would that deploys them."""
        made = self.made(name)
        for part in parts or ("ca", "cert", "key"):
            place = Path(self.installed[part])
            place.parent.mkdir(exist_ok=True)
            shutil.copy(getattr(made, part), place.with_suffix(".new"))
            place.with_suffix(".new").rename(place)


@asynccontextmanager
async def serving(root: Path, keys: Keys) -> AsyncIterator[tuple[Device, Neighbourhood, str]]:
    """A daemon of the site that holds an object, 1,000,000 bytes of 2,000,000, while the rest is on its way."""
    async with device(root) as pi:
        files = {f"site_{part}": Path(path) for part, path in keys.installed.items()}
        address = f"127.0.0.1:{free_port()}"
        settings = Settings(pi.data.root, site_address=address, site_peers=("127.0.0.9:1",), **files)  # type: ignore[arg-type]
        made = Neighbourhood(settings, pi.data)
        port = await made.start(pi.resident.device)
        writer = Spool(pi.data.root / "site", 1 << 30).write(TARGET)
        assert writer is not None
        writer.size(2_000_000)
        writer.plan(0, 2_000_000)
        writer.write(0, b"x" * 1_000_000)
        try:
            yield pi, made, f"https://127.0.0.1:{port}"
        finally:
            writer.close()
            await made.stop()


async def served(url: str, key: SiteAccess) -> bool:
    """Whether who has `key` gets bytes."""
    headers = {site.NAME_HEADER: "site", "Range": "bytes=0-9"}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/{TARGET}", headers=headers, ssl=key.client_context() or True) as response,
        ):
            return response.status == 206 and await response.read() == b"x" * 10
    except aiohttp.ClientError:
        return False


async def until_served(url: str, key: SiteAccess) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await served(url, key):  # noqa: ASYNC110 - it is another task's doing
            await asyncio.sleep(0.1)


async def name_key(pi: Device, key: str) -> None:
    pi.plane.set_desired({"modelsync": {"policy": {"site": {"key": key}}}})
    await pi.until(lambda: (found := pi.resident.device.policy().site) is not None and found.key == key)


async def test_the_twin_names_another_key_and_the_old_one_is_refused_at_once(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    old, new = keys.made("old"), keys.made("new")
    async with serving(tmp_path, keys) as (pi, made, url):
        assert await served(url, old) and not await served(url, new) and made.access() is not None
        headers = {site.NAME_HEADER: "site", "Range": "bytes=0-1999999"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/{TARGET}", headers=headers, ssl=old.client_context() or True) as response,
        ):
            await response.content.readexactly(500_000)
            await name_key(pi, new.fingerprint())
            assert made.access() is None, "this device asks nobody"
            assert not await served(url, old), "nor does it answer"
            with pytest.raises(aiohttp.ClientError):
                await response.content.read()
        assert not await served(url, new), "it has not got that yet"
        keys.install("new")
        await pi.until(lambda: made.access() is not None)
        await until_served(url, new)
        assert not await served(url, old)


async def test_new_files_are_taken_into_use_without_a_restart_and_half_written_ones_are_not(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    old, new = keys.made("old"), keys.made("new")
    async with serving(tmp_path, keys) as (_, made, url):
        keys.install("new", "cert")
        await asyncio.sleep(1.1)
        assert made.access() is not None and await served(url, old), "a certificate without its key changes nothing"
        keys.install("new", "key", "ca")
        os.utime(keys.installed["ca"])
        await asyncio.sleep(1.1)
        made.access()
        await until_served(url, new)
        assert not await served(url, old)
