"""The lines that a device may hang on, by name."""

from __future__ import annotations

from modelsync_bench.result import LinkProfile

DIRECT = "direct"
"""The line on which bytes are counted: 20 Mbit/s and no delay. On a faster one, how many acknowledgements there are
would depend on how busy the machine is."""

LINKS = {
    one.name: one
    for one in (
        LinkProfile(DIRECT, 20_000_000, 20_000_000, 0, 0),
        LinkProfile("lte", 10_000_000, 2_000_000, 60, 0),
        LinkProfile("lte-m", 300_000, 100_000, 150, 0),
        LinkProfile("2g", 40_000, 40_000, 500, 0),
        LinkProfile("loss", 10_000_000, 2_000_000, 60, 20),
    )
}
"""The 2G line's round trip is GPRS's usual half second; `loss` is the LTE line with 2 % of packets lost, each way."""


SET_UP = LinkProfile("set-up", None, None, 0, 0)
"""The line on which devices are prepared, as fast as the machine."""


def predicted_seconds(link: LinkProfile, down_bytes: int, up_bytes: int, requests: int) -> float:
    """A lower bound of what a transfer takes: bytes over rate, and a round trip each for TCP, TLS and every request."""
    down = down_bytes * 8 / link.down_bits if link.down_bits else 0.0
    up = up_bytes * 8 / link.up_bits if link.up_bits else 0.0
    return max(down, up) + (2 + requests) * link.round_trip_ms / 1000
