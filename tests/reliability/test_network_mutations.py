"""Each protection of the line is needed: with it switched off, the checker of test_hostile_line.py notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from modelsync_daemon.build.pipeline import _Job
from modelsync_daemon.build.target_tree import Assembly
from modelsync_daemon.timing.stall import Patience
from modelsync_daemon.transfer.origin_client import Origin
from modelsync_daemon.transfer.range_body import Body
from modelsync_protocol import index
from modelsync_protocol.manifest import Manifest
from tests.reliability.line_faults import FAULTS, Fault, redirects
from tests.reliability.lines import Line
from tests.support.certificates import Authority
from tests.support.hostile_origin import HostileOrigin

MOST_SECONDS = 8.0
"""A trial that takes longer hangs: the protected one ends within two."""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A store and a device, made once."""
    return asyncio.run(Line.open(tmp_path_factory.mktemp("line")))


async def _noticed(line: Line, fault: Fault, authority: Authority | None = None) -> bool:
    try:
        async with asyncio.timeout(MOST_SECONDS):
            context, ca = (authority.server(), authority.path) if authority else (None, None)
            (await line.trial(fault, context, ca)).check(fault)
    except (AssertionError, TimeoutError):
        return True
    return False


def _named(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


def _no_etag_check(patch: pytest.MonkeyPatch) -> None:
    async def accept(self: Body, response: aiohttp.ClientResponse, ranged: bool) -> None:
        self.etag = ""
        await original(self, response, ranged)
        self.etag = ""

    original = Body._accept
    patch.setattr(Body, "_accept", accept)


def _no_range_check(patch: pytest.MonkeyPatch) -> None:
    async def accept(self: Body, response: aiohttp.ClientResponse, ranged: bool) -> None:
        if response.status != 206:
            await original(self, response, ranged)

    original = Body._accept
    patch.setattr(Body, "_accept", accept)


def _no_hash_check(patch: pytest.MonkeyPatch) -> None:
    async def verify(self: _Job, assembly: Assembly, target: Manifest, *_: object) -> Manifest:
        folder = self._data.root.parent / "store" / "manifests"
        return index.decode_object((folder / self._digest).read_bytes(), self._digest)[0]

    patch.setattr(_Job, "_verify", verify)


def _any_byte_is_progress(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Patience, "brought", lambda self, count: self.renew())


@pytest.mark.parametrize(
    ("fault", "switch_off"),
    [
        ("changed ETag in mid-resume", _no_etag_check),
        ("wrong Content-Range", _no_range_check),
        ("one corrupt byte", _no_hash_check),
        ("slow drip, 20 bytes/s", _any_byte_is_progress),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
async def test_a_protection_that_is_switched_off_is_noticed(
    fault: str, switch_off: Callable[[pytest.MonkeyPatch], None], line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not await _noticed(line, _named(fault)), "the protected device must pass"
    switch_off(monkeypatch)
    assert await _noticed(line, _named(fault))


async def test_a_redirect_out_of_tls_that_is_followed_is_noticed(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "tls")
    async with HostileOrigin(line.shop.path) as plain:
        fault = next(fault for fault in redirects("", plain.url) if fault.name == "redirect out of TLS")
        assert not await _noticed(line, fault, authority)
        assert not plain.replies, "nothing is asked without TLS"
        monkeypatch.setattr(Origin, "_redirected", lambda self, url, location: url.join(URL(location, encoded=True)))
        assert await _noticed(line, fault, authority)
