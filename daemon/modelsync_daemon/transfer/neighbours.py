"""HTTP towards neighbours: who fetches an object, and its bytes from whoever has them. It believes nothing.

Which neighbour is asked, and how long it is waited for, is site_origin.py's and site_body.py's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import aiohttp

from modelsync_daemon.transfer.connector import connector
from modelsync_daemon.transfer.download import READ_BYTES
from modelsync_daemon.transfer.meter import Meter
from modelsync_daemon.transfer.site_access import SiteAccess
from modelsync_protocol import site
from modelsync_protocol.errors import FormatError, ModelsyncError
from modelsync_protocol.site import Question, Verb
from modelsync_protocol.twin import MAX_PEERS

_PRESENT_SECONDS = 1.0
_ASK_SECONDS = 2.0
_ASKED = 2
"""So many keep in mind who fetches an object."""

_CONNECT_SECONDS = 1.0
_FIRST_WAIT_SECONDS, _RANK_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 3.0, 0.25, 5.5
_ALL_WAITING_SECONDS, _LEAST_WAIT_SECONDS = 6.5, 1.0
_VISIT_WAITING_SECONDS = 12.0
"""So long a device waits in vain for neighbours on one visit, however many they are; then it does without."""

_ALSO_HONEST = frozenset({400, 404, 408, 413, 414, 416, 429, 431, 500, 503})
"""How a neighbour says that it has nothing, or no time."""

MOST_ATTEMPTS = 3
"""So many neighbours are tried for an object before this device fetches it itself."""

_MOST_GREETED = 4
_RECEIVE_BUFFER_BYTES = 96 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:\d{1,19}|\*)")


class NeighbourFailed(ModelsyncError):
    """A neighbour did not do what a neighbour does."""


class NeighbourLies(NeighbourFailed):
    """A neighbour did what no honest one does: it is not spoken to again on this visit."""


class Visit:
    """How long a device still waits in vain for neighbours, with all objects of a visit together."""

    def __init__(self) -> None:
        self.left = _VISIT_WAITING_SECONDS


class Waiting:
    """How long a device waits for neighbours with one object: `first` seconds at a time, and little more in all."""

    def __init__(self, rank: int, visit: Visit) -> None:
        """`rank`: this device's place in the object's order. Those further down wait longer, so that not all go."""
        self.first = min(_FIRST_WAIT_SECONDS + _RANK_WAIT_SECONDS * rank, _LONGEST_WAIT_SECONDS)
        self._left, self._visit = _ALL_WAITING_SECONDS, visit

    @property
    def over(self) -> bool:
        """Whether it has waited long enough."""
        return self._left <= 0 or self._visit.left <= 0

    def lose(self, seconds: float) -> None:
        """So long was waited in vain."""
        self._left -= seconds
        self._visit.left -= seconds

    @contextlib.asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """Limit what is awaited inside, a neighbour's next sign; raises TimeoutError. What fails was waited in vain."""
        begin = asyncio.get_running_loop().time()
        try:
            left = max(_LEAST_WAIT_SECONDS, min(self._left, self._visit.left))
            async with asyncio.timeout(min(self.first, left)):
                yield
        except BaseException:
            self.lose(asyncio.get_running_loop().time() - begin)
            raise


class Neighbours:
    """The devices of one site, this one among them. Use as an async context manager, from one event loop."""

    def __init__(self, access: SiteAccess) -> None:
        self._access = access
        self._context = access.client_context()
        self._scheme = "http" if self._context is None else "https"
        self.meter = Meter()
        self._visit = Visit()
        self.present = {peer for peer in access.peers if peer != access.me}
        """Who can be reached, as far as is known: all, until one can't; then all are looked at."""
        self._looked = False
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Neighbours:
        self._session = aiohttp.ClientSession(
            connector=connector(self._socket, limit=8, ssl=self._context or True, keepalive_timeout=30),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BYTES,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        await asyncio.sleep(0)

    def ranked(self, key: str) -> list[str]:
        """All of the site, this device too, in the order in which they answer for the object."""
        return site.ranked(key, {*self._access.peers, self._access.me})

    def waiting(self, key: str) -> Waiting:
        """How long neighbours are waited for with the object."""
        return Waiting(self.ranked(key).index(self._access.me), self._visit)

    def _reachable(self, member: str) -> bool:
        return member in self.present or member == self._access.me

    async def who(self, key: str, excluded: frozenset[str], attempt: int, waiting: Waiting) -> str | None:
        """Who has the object or fetches it; None: this device is to fetch it, or has waited long enough.

        The device that is asked is the first in the object's order; after each failure, the next one. Who is told to
        fetch asks one more, for the first may have started just now, or be gone soon.
        """
        question = Question(Verb.WANT, key, self._access.port, frozenset(sorted(excluded)[: site.MAX_EXCLUDED]))
        told = 0
        for member in self.ranked(key)[attempt:]:
            if told == _ASKED or waiting.over:
                break
            if member in excluded or not self._reachable(member):
                continue
            try:
                async with waiting.limited():
                    holder = site.parse_answer(await self._ask(member, question))
            except (FormatError, NeighbourFailed, TimeoutError):
                self.present.discard(member)
                await self._look()
                continue
            if holder in self._access.peers and holder not in excluded and holder != self._access.me:
                return holder  # nobody else: a neighbour can't send us to an address of its choice
            told += 1
        return None

    async def _look(self) -> None:
        """See at once who takes connections, so that nobody is waited for who is gone."""
        if not self._looked:
            self._looked = True
            peers = sorted(self.present)[:MAX_PEERS]
            found = await asyncio.gather(*map(_answers, peers))
            self.present -= {peer for peer, there in zip(peers, found, strict=True) if not there}

    async def anybody(self) -> bool:
        """Whether one of them answers as a device of this site does, who has its key where there is one."""
        await self._look()
        for member in sorted(self.present)[:_MOST_GREETED]:
            with contextlib.suppress(NeighbourFailed):
                await self._ask(member, Question(Verb.GONE, "0" * 16, self._access.port))
                return True
        return False

    async def tell(self, verb: Verb, key: str, attempt: int) -> None:
        """Say what has become of an object to those who may be asked about it."""
        question = Question(verb, key, self._access.port)

        async def say(member: str) -> None:
            try:
                await self._ask(member, question)
            except NeighbourFailed:
                self.present.discard(member)  # or the next objects would wait for it again

        await asyncio.gather(*map(say, filter(self._reachable, self.ranked(key)[: attempt + _ASKED])))

    async def open(self, holder: str, target: str, begin: int, end: int | None) -> aiohttp.ClientResponse:
        """Ask for bytes `begin` to `end` of an object (None: for all of it). Raises NeighbourFailed."""
        headers = {} if end is None else {"Range": f"bytes={begin}-{end - 1}"}
        response = await self._get(holder, target, headers, {})
        if response.status != (200 if end is None else 206):
            response.close()
            failed = NeighbourFailed if response.status in _ALSO_HONEST else NeighbourLies
            raise failed(f"{holder} answers {response.status}.")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        other = end is not None and not (match and int(match[1]) == begin and int(match[2]) == end - 1)
        if other or response.content_length is None or (end is not None and response.content_length != end - begin):
            response.close()
            raise NeighbourLies(f"{holder} answers another range.")
        return response

    async def fetch(self, holder: str, target: str, limit: int) -> bytes:
        """A whole object of at most `limit` bytes. Raises NeighbourFailed."""
        response = await self.open(holder, target, 0, None)
        try:
            data = bytearray()
            if (response.content_length or 0) > limit:
                raise NeighbourLies(f"{holder} has more than was asked for.")
            while part := await self.read(holder, response, READ_BYTES):
                data += part
            if response.content_length != len(data):
                raise NeighbourFailed(f"{holder} sends no whole object.")
            return bytes(data)
        finally:
            response.close()

    async def read(self, holder: str, response: aiohttp.ClientResponse, count: int) -> bytes:
        """Some of the next bytes, empty at the end. Raises NeighbourFailed."""
        try:
            return await response.content.read(count)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NeighbourFailed(f"{holder} broke off.") from error

    async def _ask(self, member: str, question: Question) -> bytes:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                async with await self._get(member, site.LEASE_PATH, {}, question.query()) as response:
                    if response.status not in (200, 204):
                        raise NeighbourFailed(f"{member} answers {response.status}.")
                    answer = await response.content.read(site.MAX_ANSWER_BYTES + 1)
                    if not response.content.at_eof() and await response.content.read(1):
                        raise NeighbourLies(f"{member} answers at length.")
                    return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NeighbourFailed(f"{member} does not answer.") from error

    async def _get(
        self, member: str, path: str, headers: dict[str, str], query: dict[str, str]
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        url = f"{self._scheme}://{member}/{path}"
        named = {**headers, site.NAME_HEADER: self._access.name}
        try:
            return await self._session.get(url, params=query or None, headers=named, allow_redirects=False)
        except aiohttp.ClientResponseError as error:
            raise NeighbourLies(f"{member} speaks no HTTP.") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise NeighbourFailed(f"{member} can't be reached.") from error

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        own = site.address(address[4][0], address[4][1]) == self._access.me
        sock = socket.socket(*address[:3]) if own else self.meter.socket(address)  # to oneself costs nobody anything
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        return sock


async def _answers(peer: str) -> bool:
    """Whether somebody takes connections there."""
    host, _, port = peer.rpartition(":")
    try:
        async with asyncio.timeout(_PRESENT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def anybody(access: SiteAccess, count: Callable[[int, int], None]) -> bool:
    """Whether a neighbour answers now; `count` is told the bytes received and sent. It takes some seconds at most."""
    async with Neighbours(access) as neighbours:
        found = await neighbours.anybody()
    count(*neighbours.meter.news())
    return found
