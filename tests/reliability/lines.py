"""One device, one store and one fault at a time: what the device said and received, and which version it ends with."""

from __future__ import annotations

import logging
import random
import re
import shutil
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from modelsync_protocol.caps import KIB
from modelsync_protocol.errors import ModelsyncError
from tests.reliability.line_faults import NOTHING, Fault
from tests.support.hostile_origin import HostileOrigin, Reply
from tests.support.pulling import Device
from tests.support.shop import Shop

OLD = random.Random(1).randbytes(200 * KIB)
NEW = random.Random(2).randbytes(20 * KIB) + OLD[20 * KIB :]


@dataclass
class Line:
    """A store with two versions and a device that holds the first; `trial` leaves both as they were."""

    root: Path
    shop: Shop
    old: bytes
    new: bytes
    need: dict[tuple[bool, bool], int] = field(default_factory=dict)
    """Bytes that an undisturbed update and a second look receive: (over TLS, on an empty device) → bytes."""

    @classmethod
    async def open(cls, root: Path, old: bytes = OLD, new: bytes = NEW) -> Line:
        """Publish `old` as version 1 and `new` as version 2."""
        shop = await Shop.open(root)
        await shop.publish_bytes("m", old)
        device = Device(root / "holds-1", shop.trust)
        async with HostileOrigin(shop.path) as origin:
            await device.pull("m", origin.url)
        await shop.publish_bytes("m", new)
        return cls(root, shop, old, new)

    async def trial(
        self,
        fault: Fault,
        context: ssl.SSLContext | None = None,
        ca: Path | None = None,
        repaired: ssl.SSLContext | None = None,
    ) -> Outcome:
        """Let a device on version 1 update to version 2 while `fault` lasts, and again when it is over.

        `context` is the origin's (None: no TLS), `repaired` the one it has afterwards, `ca` what the device trusts.
        """
        key = (context is not None, fault.fresh)
        if key not in self.need:
            honest = Fault("none", lambda reply: None, NOTHING, 0, fresh=fault.fresh)
            self.need[key] = (await self._update(honest, repaired or context, ca, None)).received
        outcome = await self._update(fault, context, ca, repaired)
        outcome.wasted = outcome.received - self.need[key]
        return outcome

    async def _update(
        self, fault: Fault, context: ssl.SSLContext | None, ca: Path | None, repaired: ssl.SSLContext | None
    ) -> Outcome:
        root = self.root / "trial"
        shutil.rmtree(root, ignore_errors=True)
        if not fault.fresh:
            shutil.copytree(self.root / "holds-1", root, symlinks=True)
        device = Device(root, self.shop.trust)
        begun = 0

        def inject(reply: Reply) -> None:
            nonlocal begun
            if reply.path.startswith(fault.path) and (fault.times is None or begun < fault.times):
                begun += 1
                reply.number = begun
                fault.inject(reply)

        said = _Said()
        logger = logging.getLogger("modelsync_daemon")
        logger.addHandler(said)
        try:
            async with HostileOrigin(self.shop.path, inject, context) as origin:
                try:
                    await device.pull("m", origin.url, stall_seconds=fault.stall_seconds, origin_ca=ca)
                except ModelsyncError as error:
                    said.sentences.append(str(error))
            said.sentences, sentences = [], said.sentences
            outcome = Outcome(sentences, origin.replies, device.listener.received, self._version(device))
            async with HostileOrigin(self.shop.path, context=repaired or context) as origin:
                await device.pull("m", origin.url, origin_ca=ca)
            outcome.later = len(origin.replies)
            outcome.replies += origin.replies
            outcome.afterwards = self._version(device)
            outcome.received += device.listener.received
            outcome.garbage = [path for path in device.leftovers() if not path.endswith("/incoming/m")]
        finally:
            logger.removeHandler(said)
        return outcome

    def _version(self, device: Device) -> str:
        if device.data.read_pointer("m") is None:
            return "none"
        return {self.old: "old", self.new: "new"}.get(device.files("m")["model.bin"], "damaged")


@dataclass
class Outcome:
    """What a trial came to, the repair after the fault included. Bytes are those on the wire, towards the device.

    `wasted` is what was received beyond what an undisturbed update needs.
    """

    said: list[str]
    replies: list[Reply]
    received: int
    end: str
    wasted: int = 0
    later: int = 0
    """How many of the replies were sent after the fault was over."""
    afterwards: str = ""
    garbage: list[str] = field(default_factory=list)

    def check(self, fault: Fault) -> None:
        """The promises of `fault`; AssertionError."""
        text = " ".join(self.said)
        assert self.end == fault.end, f"{fault.name}: it ended with {self.end}: {text}"
        assert self.afterwards == "new", f"{fault.name}: {self.afterwards} after the fault was over"
        assert not self.garbage, f"{fault.name}: {self.garbage}"
        assert self.wasted <= fault.waste, f"{fault.name}: {self.wasted} bytes wasted: {text}"
        assert re.search(fault.says, text), f"{fault.name}: {text!r} does not say {fault.says!r}"
        assert "Traceback" not in text and all(sentence.endswith(".") for sentence in self.said), text
        assert len(self.said) <= _MOST_SENTENCES, f"{fault.name}: {self.said}"

    @property
    def requests(self) -> int:
        """How many requests the server saw, those of the repair afterwards included."""
        return len(self.replies)


_MOST_SENTENCES = 6


class _Said(logging.Handler):
    """What an operator would read at the default level."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.sentences.append(record.getMessage())
