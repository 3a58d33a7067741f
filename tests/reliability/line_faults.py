"""What a line or an origin can do to an answer: one entry a fault, with what the device may say, waste and end with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modelsync_protocol.caps import KIB, MAX_BUNDLE_BYTES, MIB
from tests.support.hostile_origin import End, Reply

FLIGHT = 8 * KIB
"""Bytes that headers, further requests and TLS may cost on top of what a fault destroys."""

IN_FLIGHT_AT_CLOSE = 512 * KIB
"""What may already be in the kernel's buffers of both sides when the device hangs up on an answer."""

NOTHING = "^$"
"""The device says nothing."""

Inject = Callable[[Reply], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """`inject` changes the first `times` answers to paths that begin with `path` (None: all of them).

    `says` is what the device's sentences must hold (a regular expression), `waste` the
    most bytes beyond what an undisturbed update receives, `end` the version that serves while the fault lasts. `fresh`:
    the device holds no version yet, so that it fetches ranges of packs.
    """

    name: str
    inject: Inject
    says: str
    waste: int
    end: str = "new"
    path: str = "updates/"
    times: int | None = 1
    fresh: bool = False
    stall_seconds: float = 0.8


def after(share: float, *steps: bytes | float | End) -> Inject:
    """Send `share` of the answer, then do `steps`."""

    def inject(reply: Reply) -> None:
        raw = reply.raw()
        reply.steps = [raw[: int(len(raw) * share)], *steps]

    return inject


def spoiled(change: Callable[[bytes], bytes]) -> Inject:
    """Change the body and leave the headers."""

    def inject(reply: Reply) -> None:
        reply.body = change(reply.body)

    return inject


def headers(**changes: str) -> Inject:
    """Change headers; an empty value removes one."""

    def inject(reply: Reply) -> None:
        for name, value in changes.items():
            reply.headers[name.replace("_", "-")] = value
            if not value:
                del reply.headers[name.replace("_", "-")]

    return inject


def status(number: int, **more: str) -> Inject:
    """Answer this status."""
    return lambda reply: reply.answer(number, b"no", **more)


def both(*injections: Inject) -> Inject:
    """One after the other."""

    def inject(reply: Reply) -> None:
        for each in injections:
            each(reply)

    return inject


def first_then(first: Inject, rest: Inject) -> Inject:
    """`first` for the first answer, `rest` for the others."""
    return lambda reply: (first if reply.number == 1 else rest)(reply)


def drip(seconds: float, *, headers_too: bool = False) -> Inject:
    """A byte at a time."""

    def inject(reply: Reply) -> None:
        raw = reply.raw()
        begin = 0 if headers_too else len(raw) - len(reply.body)
        reply.steps = [raw[:begin], *(step for byte in raw[begin:] for step in (bytes([byte]), seconds))]

    return inject


def _flip(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 0x40]) + body[middle + 1 :]


def _whole_for_range(reply: Reply) -> None:
    if reply.status == 206:
        reply.answer(200, reply.whole, ETag=reply.headers["ETag"])


def _other_range(reply: Reply) -> None:
    if reply.status == 206:
        reply.headers["Content-Range"] = f"bytes 1-{len(reply.body)}/{len(reply.whole)}"


def _no_range(reply: Reply) -> None:
    if reply.status == 206:
        del reply.headers["Content-Range"]


def _endless(reply: Reply) -> None:
    reply.headers = {"Transfer-Encoding": "chunked"}
    reply.body = b""
    reply.steps = [reply.raw(), *([b"10000\r\n" + bytes(64 * KIB) + b"\r\n"] * 512)]


def _endless_headers(reply: Reply) -> None:
    reply.steps = [b"HTTP/1.1 200 OK\r\n", *(f"X-{n}: {'y' * 4000}\r\n".encode() for n in range(500))]


def _changed_in_mid_resume(reply: Reply) -> None:
    if "range" in reply.asked:
        reply.answer(206, bytes(len(reply.whole) // 2), ETag='"other"', Content_Range=_rest(reply))


def _rest(reply: Reply) -> str:
    begin = reply.asked["range"].removeprefix("bytes=").rstrip("-")
    reply.whole = reply.whole.ljust(int(begin) + 1)
    return f"bytes {begin}-{int(begin) + len(reply.whole) // 2 - 1}/{len(reply.whole)}"


def _alternating(number: int) -> Inject:
    return lambda reply: reply.answer(number) if reply.number % 2 else None


_HALF_THEN_RESET = after(0.5, End.RESET)

FAULTS = (
    Fault("drop: end of stream in mid-body", after(0.5, End.CLOSE), "download of updates/.* broke", FLIGHT),
    Fault("reset in mid-body", _HALF_THEN_RESET, "download of updates/.* broke", FLIGHT),
    Fault("reset before any byte", after(0.0, End.RESET), "can't be reached", FLIGHT, path="", times=2),
    Fault("stall in mid-body", after(0.5, End.HANG), "broke", FLIGHT),
    Fault("stall for ever", after(0.5, End.HANG), "without progress", 64 * KIB, "old", "", None),
    Fault("stall before any byte", after(0.0, End.HANG), "without progress", FLIGHT, "old", "", None),
    Fault("slow drip, 20 bytes/s", drip(0.05), "without progress", FLIGHT, "old", "updates/", None),
    Fault("slow drip, headers too", drip(0.05, headers_too=True), "without progress", FLIGHT, "old", "bundles/", None),
    Fault("one corrupt byte", spoiled(_flip), "damaged", 64 * KIB),
    Fault("corrupt bundle", spoiled(_flip), NOTHING, FLIGHT, path="bundles/"),
    Fault("duplicated bytes", spoiled(lambda b: (b[:99] + b)[: len(b)]), "damaged", 64 * KIB),
    Fault("missing bytes in the middle", spoiled(lambda b: b[:200] + b[300:]), "broke|early|damaged", 96 * KIB),
    Fault("500 on every second request", _alternating(500), "answers 500", FLIGHT, path="", times=None),
    Fault("500 for ever", status(500), "answers 500.*without progress", FLIGHT, "old", "", None),
    Fault("503 with Retry-After: 1", status(503, Retry_After="1"), "answers 503", FLIGHT, stall_seconds=9.0),
    Fault("503 with Retry-After: 600", status(503, Retry_After="600"), "come back later", FLIGHT, "old", "", None),
    Fault("429 with Retry-After: 600", status(429, Retry_After="600"), "answers 429.*later", FLIGHT, "old", "", None),
    Fault("404 for the update", status(404), "chunks are fetched instead", 80 * KIB),
    Fault("404 for everything", status(404), "origin has no", FLIGHT, "old", "", None),
    Fault("403 for everything", status(403), "answers 403", FLIGHT, "old", "", None),
    Fault("416", status(416), "chunks are fetched instead", 80 * KIB),
    Fault("416 to a resume", first_then(_HALF_THEN_RESET, status(416)), "chunks", 96 * KIB, times=2),
    Fault("200 for 206", first_then(_HALF_THEN_RESET, _whole_for_range), "broke", 64 * KIB, times=2),
    Fault("wrong Content-Range", first_then(_HALF_THEN_RESET, _other_range), "another range", 64 * KIB, times=None),
    Fault("206 without Content-Range", first_then(_HALF_THEN_RESET, _no_range), "another range", 64 * KIB, times=None),
    Fault("wrong Content-Range of packs", _other_range, "another range", 256 * KIB, "none", "packs/", None, True),
    Fault("200 for 206 of packs", _whole_for_range, NOTHING, 256 * KIB, "new", "packs/", None, True),
    Fault(
        "changed ETag in mid-resume", first_then(_HALF_THEN_RESET, _changed_in_mid_resume), "changed", 96 * KIB, times=2
    ),
    Fault("gzip that was not asked for", headers(Content_Encoding="gzip"), "compresses", FLIGHT, "old", "", None),
    Fault("endless update", _endless, "damaged|chunks", IN_FLIGHT_AT_CLOSE),
    Fault("endless bundle", _endless, "longer than", MAX_BUNDLE_BYTES + IN_FLIGHT_AT_CLOSE, "old", "bundles/", None),
    Fault("endless headers", _endless_headers, "no HTTP", 2 * MIB, "old", "", None),
    Fault("Content-Length too long", headers(Content_Length="999999"), "announced", 80 * KIB),
    Fault("Content-Length too short", headers(Content_Length="100"), "no HTTP", 80 * KIB),
    Fault(
        "no Content-Length",
        both(headers(Content_Length="", Connection="close"), after(1.0, End.CLOSE)),
        NOTHING,
        FLIGHT,
    ),
    Fault("not HTTP", lambda reply: setattr(reply, "steps", [b"220 mail\r\n\r\n", End.CLOSE]), "no HTTP", FLIGHT),
)


def redirects(other: str, plain: str) -> tuple[Fault, ...]:
    """Faults that lead elsewhere: `other` is a second honest origin over TLS, `plain` one without."""

    def to(address: str) -> Inject:
        return lambda reply: reply.answer(302, Location=f"{address}/{reply.path}")

    return (
        Fault("redirect on the same host", to(""), NOTHING, FLIGHT, path="updates/"),
        Fault("redirect to another host", to(other), NOTHING, FLIGHT, path="updates/", times=None),
        Fault("redirect loop", to(""), "redirects more than 3", FLIGHT, "old", "", None),
        Fault("redirect out of TLS", to(plain), "without TLS", FLIGHT, "old", "", None),
        Fault("redirect to a file", to("file:///etc"), "no usable address", FLIGHT, "old", "", None),
        Fault("redirect nowhere", status(302), "no usable address", FLIGHT, "old", "", None),
        Fault("TLS ended without close_notify", after(0.5, End.CUT), "broke|early", FLIGHT),
        Fault(
            "the same, where only the end tells the length",
            both(headers(Content_Length="", Connection="close"), after(0.5, End.CUT)),
            "broke|early",
            FLIGHT,
        ),
    )
