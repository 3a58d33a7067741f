"""Rings as an operator writes them: conditions on tags, device lists, percentages; in options or a file. Reads files.

A percentage is a range of `tags.modelsync.bucket`, a number from 0 to 9999 that a stable hash of the device id gives:
conditions can't hash, and a tag that is written once stays the same for every rollout (ADR 0026).
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_protocol.errors import UsageError
from modelsync_server.iothub.errors import HubError
from modelsync_server.iothub.identity import Identity
from modelsync_server.query import parse_condition
from modelsync_server.rollout.gate import Gate, parse_gate, parse_share
from modelsync_server.rollout.target import EVERYONE, both, quoted, step

BUCKETS = 10_000
BUCKET = "tags.modelsync.bucket"
MAX_RINGS = 20
MAX_LISTED = 50
"""Devices that a target condition names itself; longer lists become a tag."""
MAX_LIST = 20_000
MAX_CONDITION_CHARACTERS = 2_000
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_PERCENTAGES = re.compile(r"\s*\d+(\.\d+)?\s*%(\s*,\s*\d+(\.\d+)?\s*%)*\s*")
_CHANGING = re.compile(r"\b(properties|configurations|connectionState|lastActivityTime|version|etag)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ring:
    """One ring: its name, its condition in the query language ('*' is everyone), its gate.

    `devices` are the ids of a list that is too long for a condition; then `where` is a tag that they are given.
    `listed` is how many a list names, short ones too.
    """

    name: str
    where: str
    gate: Gate
    devices: tuple[str, ...] = ()
    listed: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r:.60} is no name of a ring: use a-z, 0-9 and -, at most 31.")

    @property
    def needs_buckets(self) -> bool:
        return BUCKET in self.where


def bucket(device: str) -> int:
    """The bucket of a device: the first 32 bits of its id's SHA-256, scaled. Never changes."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:4], "big") * BUCKETS >> 32


def parse_options(texts: Sequence[str], gate: Gate) -> tuple[Ring, ...]:
    """Rings from `NAME:CONDITION`, `NAME:10%,50%,100%` or `NAME:@FILE` (a device id per line); UsageError."""
    rings: list[Ring] = []
    for text in texts:
        name, colon, rest = text.partition(":")
        if not colon or not rest.strip():
            raise UsageError(f"--ring {text!r:.80} is not of the form NAME:CONDITION, NAME:10%,50%,100% or NAME:@FILE.")
        if rest.startswith("@"):
            rings += _rings(name, gate, devices=_lines(Path(rest[1:])))
        elif _PERCENTAGES.fullmatch(rest):
            rings += _rings(name, gate, percent=rest.split(","))
        else:
            rings += _rings(name, gate, where=rest)
    return _checked(rings)


def read_file(path: Path, gate: Gate) -> tuple[Ring, ...]:
    """Rings from a TOML or JSON file with `[gate]` and `[[ring]]` tables (docs/fleet.md); UsageError."""
    try:
        raw = path.read_bytes()
        document = json.loads(raw) if path.suffix == ".json" else tomllib.loads(raw.decode())
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is neither TOML nor JSON (by its name): {error}.") from error
    tables = document.get("ring") if isinstance(document, dict) else None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path} has no [[ring]] tables.")
    gate = parse_gate(document.get("gate"), gate)
    rings: list[Ring] = []
    for table in tables:
        rings += _from_table(table, gate)
    return _checked(rings)


def _from_table(table: Mapping[str, Any], gate: Gate) -> list[Ring]:
    unknown = table.keys() - {"name", "where", "devices", "percent", "gate"}
    if unknown:
        raise UsageError(f"a ring has no {sorted(unknown)[0]!r:.40}; it has name, where, devices, percent and gate.")
    name, where, devices, percent = (table.get(key) for key in ("name", "where", "devices", "percent"))
    if not isinstance(name, str) or not (where is None or isinstance(where, str)):
        raise UsageError("a ring has a name, and its `where` is a text.")
    if devices is not None and not (isinstance(devices, list) and all(isinstance(each, str) for each in devices)):
        raise UsageError(f"the `devices` of ring {name!r:.60} are a list of device ids.")
    if percent is not None:
        percent = [f"{each:g}%" if type(each) in (int, float) else each for each in _list(percent)]
    return _rings(name, parse_gate(table.get("gate"), gate), where=where, devices=devices, percent=percent)


def _rings(
    name: str,
    gate: Gate,
    *,
    where: str | None = None,
    devices: Sequence[str] | None = None,
    percent: Sequence[object] | None = None,
) -> list[Ring]:
    if devices is not None:
        if where is not None or percent is not None:
            raise UsageError(f"ring {name!r:.60} is either a list of devices, or a condition, or percentages.")
        return [_listed(name, gate, devices)]
    scope = _checked_condition(name, where or EVERYONE)
    if percent is None:
        return [Ring(name, scope, gate)]
    shares = [parse_share(each) for each in percent]
    if not shares or sorted(set(shares)) != shares or shares[0] <= 0:
        raise UsageError(f"the percentages of ring {name!r:.60} rise, such as 10%,50%,100%.")
    rings, low = [], 0
    for share in shares:
        high = round(share * BUCKETS)
        part = EVERYONE if high == BUCKETS else f"{BUCKET} >= {low} AND {BUCKET} < {high}"
        # 100 % is everyone left, those too who joined after the buckets were written.
        rings.append(
            Ring(name if len(shares) == 1 else f"{name}-{share * 100:g}".replace(".", "-"), both(scope, part), gate)
        )
        low = high
    return rings


def _listed(name: str, gate: Gate, devices: Sequence[str]) -> Ring:
    ids = tuple(dict.fromkeys(devices))
    if not 0 < len(ids) <= MAX_LIST:
        raise UsageError(f"ring {name!r:.60} lists {len(ids)} devices; 1 to {MAX_LIST:,} are allowed.")
    for each in ids:
        Identity(each)
    where = f"deviceId IN [{', '.join(map(quoted, ids))}]"
    if len(ids) <= MAX_LISTED and len(where) <= MAX_CONDITION_CHARACTERS:
        return Ring(name, where, gate, listed=len(ids))
    digest = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:12]
    return Ring(name, f"tags.modelsync.lists.{step(name)} = {quoted(digest)}", gate, ids, len(ids))


def list_tag(ring: Ring) -> str:
    """The value of the tag that the devices of a long list are given."""
    return ring.where.rpartition("= ")[2].strip("'")


def _checked_condition(name: str, where: str) -> str:
    where = where.strip()
    if where == EVERYONE:
        return where
    if len(where) > MAX_CONDITION_CHARACTERS:
        raise UsageError(f"the condition of ring {name!r:.60} is longer than {MAX_CONDITION_CHARACTERS} characters.")
    try:
        parse_condition(where)
    except HubError as error:
        raise UsageError(f"the condition of ring {name!r:.60} can't be read. {error.message}") from error
    plain = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "''", where)
    found = _CHANGING.search(plain)
    if found:
        raise UsageError(
            f"ring {name!r:.60} chooses by {found[0]}, which changes while a rollout runs; use tags or device ids."
        )
    return where


def _checked(rings: Sequence[Ring]) -> tuple[Ring, ...]:
    if not 0 < len(rings) <= MAX_RINGS:
        raise UsageError(f"a rollout has 1 to {MAX_RINGS} rings, not {len(rings)}; give --ring or a file.")
    names = [ring.name for ring in rings]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"two rings are called {twice[0]!r}.")
    for number, ring in enumerate(rings[:-1]):
        if ring.where == EVERYONE:
            raise UsageError(f"ring {ring.name!r} is everyone, so ring {rings[number + 1].name!r} would be empty.")
    return tuple(rings)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no list of device ids, one a line: it is not UTF-8.") from error


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError("`percent` is a list such as [10, 50, 100].")
    return value
