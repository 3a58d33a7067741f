"""Puts an export together: reads the store once, chooses, writes; and what an earlier export had, for `--since`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from modelsync_protocol import caps, media
from modelsync_protocol.errors import FormatError, RefusedError, UsageError
from modelsync_server.media.selection import Selection, Wanted, select
from modelsync_server.media.writers import Progress, block_bytes, write_file, write_folder
from modelsync_server.publish.release_records import published_at
from modelsync_server.store import Store, durable
from modelsync_server.trust import Catalogue
from modelsync_server.trust.metadata import catalogue_of, now, read_states

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]{1,3})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: to `out`, `bytes` of it now, `objects` in all; versions by model; what was left out. Devices
    believe it until `expires`."""

    out: Path
    store: str
    issued: str
    expires: datetime
    models: Mapping[str, Sequence[int]]
    objects: int
    bytes: int
    total: int
    left: Sequence[str]


async def export(
    store: Store,
    out: Path,
    wanted: Wanted,
    *,
    size: int | None = None,
    since: str | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Exported:
    """Write what is `wanted` to `out`: one file if the name ends in .tar, else a folder. `size`: most bytes in all.

    `since`: the path of an earlier export, whose versions the devices hold by now, or a date (YYYY-MM-DD, UTC): they
    hold what was the newest then. UsageError, RefusedError for a store that does not verify, LocalError.
    """
    states = await read_states(store)
    expires = catalogue_of(*states).expires
    if expires <= now():
        raise RefusedError("the store's metadata has expired, and no device would believe it: run `modelsync refresh`.")
    single = out.suffix == ".tar"
    if since is not None:
        earlier = await _since(store, catalogue_of(*states), since)
        wanted = Wanted(wanted.models, wanted.versions, wanted.bases, wanted.held, earlier)
    block = media.BLOCK_BYTES if single else block_bytes(out)
    chosen: Selection = await select(store, states, wanted, size, block)
    write = write_file if single else write_folder
    try:
        written = await write(store, chosen, out.absolute(), progress)
    except OSError as error:  # a stick that was pulled out says so anywhere
        raise durable.local_error(out, error) from error
    medium = chosen.medium
    return Exported(
        out=out,
        store=medium.store,
        issued=medium.issued,
        expires=expires,
        models=medium.models,
        objects=len(chosen.objects),
        bytes=written,
        total=chosen.bytes,
        left=tuple(chosen.left),
    )


def parse_size(text: str) -> int:
    """Bytes of `3.8G`, `500M` or `1000000` (units of 1024); UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--size takes bytes, or a number with K, M, G or T, such as 3.8G, not {text!r:.40}.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


async def _since(store: Store, catalogue: Catalogue, since: str) -> dict[str, list[int]]:
    place = Path(since)
    if place.exists():
        medium = _read_index(place)
        if medium.store != catalogue.store_id:
            raise UsageError(f"{since} is an export of another store; name one of this store.")
        return {name: list(versions) for name, versions in medium.models.items()}
    try:
        day = datetime.strptime(since, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(
            f"--since takes an earlier export's path or a date such as 2026-11-20, not {since!r}."
        ) from None
    found: dict[str, list[int]] = {}
    for name, model in catalogue.models.items():
        for version in sorted(model.versions, reverse=True):
            published, _ = await published_at(store, model.versions[version], model.releases.get(version))
            if published is not None and published < day:
                found[name] = [version]
                break
    return found


def _read_index(place: Path) -> media.Medium:
    try:
        if place.is_dir():
            return media.decode((place / media.INDEX).read_bytes())
        with place.open("rb") as file:
            entry = media.read_header(file.read(media.BLOCK_BYTES))
            if entry is None or entry[0] != media.INDEX or entry[1] > caps.MAX_MEDIA_INDEX_BYTES:
                raise FormatError("no index")
            return media.decode(file.read(entry[1]))
    except (OSError, FormatError) as error:
        raise UsageError(f"{place} is no finished export; name what `modelsync export` wrote.") from error
