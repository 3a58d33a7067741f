"""The result file: its schema and its reading and writing. No measuring here.

A result is one JSON document: `{"schema": 1, "machine", "peers", "links", "pairs", "measurements", "left_out",
"facts"}`, each a list (or one object) of the dataclasses below, field for field. Numbers are plain integers and
floats; what could not be had is null, and then `reason` says why. Readers refuse another schema number; a field that
is added gets a default and no new number.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = 1

Counter = Literal["interface", "relay", "none"]
"""interface: both directions of a network namespace's interface, offloads off, IP and TCP headers and acknowledgements
included (Ethernet headers too: 14 bytes a packet, but none on the delayed links, which carry IP). relay: TCP payload in
both directions, TLS included, IP and TCP headers not. none: not on a line at all."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured. Memory in bytes."""

    system: str
    processor: str
    cores: int
    memory_bytes: int
    python: str
    modelsync: str

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        from importlib.metadata import version

        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            f"{platform.system()} {platform.release()}",
            _processor(),
            os.cpu_count() or 1,
            pages,
            platform.python_version(),
            version("modelsync-daemon"),
        )


@dataclass(frozen=True, slots=True)
class PeerVersion:
    """A way of updating. `version` is null if it is not installed here; `missing` then says how to install it.

    `method` says in a sentence how it is used and what of it is measured; `signed` whether what it fetches is proved by
    a signature (none but modelsync); `encrypted` whether it speaks TLS here: who does not is not to be compared.
    """

    name: str
    version: str | None
    missing: str | None
    method: str
    signed: bool = False
    encrypted: bool = True


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """A line: bits a second each way (null: not limited), round trip in milliseconds, packets lost of a thousand."""

    name: str
    down_bits: int | None
    up_bits: int | None
    round_trip_ms: int
    lost_per_mille: int


@dataclass(frozen=True, slots=True)
class PairInfo:
    """What was updated. `new_zstd_bytes`: the whole new version in `zstd -19`, for scale. Sizes in bytes.

    `kind`: one file, or a tree (sizes are the sum of its files). `old_bytes` is null where the device holds nothing.
    """

    scenario: str
    name: str
    kind: Literal["file", "tree"]
    old_bytes: int | None
    new_bytes: int
    files: int
    old_sha256: str | None
    new_sha256: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of a server's access log: body bytes and all bytes of the answer (headers included, TLS not)."""

    path: str
    status: int
    body_bytes: int
    answer_bytes: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """One update of one device with one peer over one link. Bytes, seconds.

    - `scenario`: story, pairs, install, behind, cut-line, cut-kill, environment; `pair`, `peer`, `link` name entries of
      the result's lists.
    - `payload_bytes`: bodies that the method fetches, checked against the wire.
    - `wire_up`, `wire_down`: seen from the device, counted as `counter` says; handshakes, headers, manifests included.
    - `requests`: HTTP requests; null for other protocols.
    - `wall_seconds`: of the device's processes, added up. `cpu_seconds`: user and system.
    - `peak_memory`: resident bytes of its largest process (figures below 10 MiB are not told apart).
    - `exact`: the harness compared the result with the new version.
    - `deterministic`: repeats are promised to differ by less than 1 % in bytes; `totals`: both ways, of each repeat.
    - `breakdown`: the requests in order, where a server's log has them.
    - `reason`: null, or why there are no figures (`exact` is then false).
    """

    scenario: str
    pair: str
    peer: str
    link: str
    counter: Counter
    deterministic: bool
    payload_bytes: int | None = None
    wire_up: int | None = None
    wire_down: int | None = None
    requests: int | None = None
    wall_seconds: float | None = None
    peak_memory: int | None = None
    cpu_seconds: float | None = None
    exact: bool = False
    totals: tuple[int, ...] = ()
    breakdown: tuple[Request, ...] = ()
    reason: str | None = None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it one of a kind in a result."""
        return self.scenario, self.pair, self.peer, self.link

    @property
    def wire_bytes(self) -> int | None:
        """Both directions together."""
        return None if self.wire_up is None or self.wire_down is None else self.wire_up + self.wire_down

    @property
    def spread(self) -> float | None:
        """(largest − smallest) / smallest of the repeats' totals; null with fewer than two."""
        return (max(self.totals) - min(self.totals)) / min(self.totals) if len(self.totals) > 1 else None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was not measured although it could have been, and why: no row is dropped in silence. `peer` "*": none."""

    scenario: str
    pair: str
    peer: str
    link: str
    reason: str


@dataclass(slots=True)
class Result:
    """A whole result; the runner fills it and saves it after each measurement. `facts`: further figures by name."""

    machine: Machine
    peers: list[PeerVersion] = field(default_factory=list)
    links: list[LinkProfile] = field(default_factory=list)
    pairs: list[PairInfo] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def find(self, key: tuple[str, str, str, str]) -> Measurement | None:
        """The measurement with this key."""
        return next((one for one in self.measurements if one.key == key), None)

    def put(self, measurement: Measurement) -> None:
        """Add it, or replace the one with its key."""
        self.measurements = [one for one in self.measurements if one.key != measurement.key] + [measurement]

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(document, indent=1) + "\n")
        partial.replace(path)


class ResultError(ValueError):
    """The file is no result of this schema; the message says what to do."""


def load(path: Path) -> Result:
    """Read a result. ResultError if it is none, or of another schema."""
    try:
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise ResultError(f"{path} has schema {document['schema']}, this program reads {SCHEMA}: measure again.")
        return Result(
            Machine(**document["machine"]),
            [PeerVersion(**one) for one in document["peers"]],
            [LinkProfile(**one) for one in document["links"]],
            [PairInfo(**one) for one in document["pairs"]],
            [_measurement(one) for one in document["measurements"]],
            [LeftOut(**one) for one in document["left_out"]],
            document["facts"],
        )
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} is not a result of modelsync-bench: give another file.") from error


def _measurement(document: dict[str, Any]) -> Measurement:
    requests = tuple(Request(**one) for one in document.pop("breakdown"))
    return Measurement(**{**document, "totals": tuple(document["totals"]), "breakdown": requests})


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model", "Hardware")):
            return line.partition(":")[2].strip()
    return platform.machine()
