"""From a notice to a model in service, stage by stage: the resident daemon on a direct line, and `modelsyncd pull`.

`python -m bench.active [--rounds N] [--json FILE]` starts a local hub, an origin with TLS and the daemon as a process,
has it go to a new version of a small model in each round, once as it is by default and once with `ready_worker`, and
prints least, median and largest milliseconds. Stages follow each other, from what active_marks.py tells; what is
counted beside them lies within them. The pulls are processes of their own, each into an empty directory (`first`) and
from version 1 to 2 (`update`), in turn with a Python that does nothing and one that imports what HTTPS takes; their
processor time is all of it, with children. `one durable write` is what such a write costs on this disk alone.
"""

from __future__ import annotations

import argparse
import asyncio
import compileall
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import modelsync_daemon
import modelsync_protocol
from bench import active_marks
from bench.active_marks import Mark
from examples.demo.stage import Process, free_address
from modelsync_server.hub.hub import Hub, HubAddress
from tests.support.certificates import Authority
from tests.support.scripted_origin import ScriptedOrigin
from tests.support.shop import Shop

Figures = dict[str, list[float]]

_SYNCS = 30
_PATIENCE_SECONDS = 60.0

_NOTICED = (
    ("hub told → notice", "_on_hint", min),
    ("twin read", "_read", max),
    ("decided", "_start", min),
    ("worker there", "_start", max),
    ("worker starts working", "_work", min),
)
_PREPARED = (
    ("connected, first answer", "_request", max),
    ("trust", "resolve", max),
    ("plan", "choose_update", max),
    ("update read, journal begun", "begin", max),
    ("decoded", "decode", max),
    ("verified, in place", "finish", max),
)
_ACTIVATED = (("worker ended", "_prepare", max), ("pointer", "_point", max))

_BESIDE = (
    ("imports of a worker for its job", "worker"),
    ("a worker gives up its rights", "confine"),
    ("trust: root", "update_root"),
    ("trust: timestamp", "update_timestamp"),
    ("trust: snapshot", "update_snapshot"),
    ("trust: the model's role", "update_delegated_targets"),
    ("decode", "decode"),
    ("probe", "_probe"),
    ("durable writes", "sync"),
    ("commits of state.db", "transaction"),
)


def _model(version: int) -> bytes:
    """3 KB that change a little with each version."""
    return b"".join(b"weight %d of row %d\n" % (row * row + version * (row % 40 == 0), row) for row in range(150))


async def resident(root: Path, rounds: int, *, ready: bool) -> Figures:
    """Seconds of each stage, of `rounds` updates by one daemon without probation."""
    shop = await Shop.open(root)
    await shop.publish_bytes("m", _model(1), "model.txt")
    authority = Authority(root / "ca")
    found: Figures = {}
    async with (
        Hub(root / "hub", HubAddress(free_address(8883), service_port=0)) as hub,
        ScriptedOrigin(shop.path, parcels=True, small_buffer=False, tls=authority.server()) as origin,
    ):
        config = root / "modelsyncd.toml"
        config.write_text(
            f'data = "{root / "device"}"\ntrust = "{shop.trust}"\nca = "{hub.ca_path}"\n'
            f'connection_string = "{hub.add_device("pi")}"\nprobation_seconds = 0\n'
            f'origin_ca = "{authority.path}"\nready_worker = {str(ready).lower()}\n'
        )
        hub.set_desired("pi", {"modelsync": {"origin": origin.url, "models": {"m": {"version": 1}}}})
        daemon = Process("modelsyncd", root, {})
        await daemon.start("python", "-m", "bench.active_marks", "run", "--config", str(config), ready=False)
        try:
            await _reported(hub, 1)
            for version in range(2, rounds + 2):
                await shop.publish_bytes("m", _model(version), "model.txt")
                await asyncio.sleep(4.0)  # long enough to be idle again, with a worker made ready where one is to be
                read, spent, begin = daemon.log.stat().st_size, _processor_seconds(daemon.pid), time.monotonic()
                hub.set_desired("pi", {"modelsync": {"models": {"m": {"version": version}}}})
                await _pointed(root / "device" / "models" / "m", version)
                told = await _reported(hub, version)
                await asyncio.sleep(0.5)
                marks = active_marks.read(daemon.log.read_bytes()[read:])
                note = _into(found)
                _stages(note, marks, begin, (*_NOTICED, *_PREPARED, *_ACTIVATED))
                note("notice → pointer", _end(marks, "_point") - min(m.begin for m in marks if m.name == "_on_hint"))
                note("hub told → reported active", told - begin)
                note("processor, all processes of the daemon", _processor_seconds(daemon.pid) - spent)
                _beside(note, marks, told)
        finally:
            await daemon.stop()
    return found


async def pulls(root: Path, rounds: int) -> Figures:
    """Seconds of wall clock and of processor of `modelsyncd pull`, a first one and an update, and of two yardsticks."""
    shop = await Shop.open(root)
    for version in (1, 2):
        await shop.publish_bytes("m", _model(version), "model.txt")
    authority = Authority(root / "ca")
    found: Figures = {}
    note = _into(found)
    async with ScriptedOrigin(shop.path, parcels=True, small_buffer=False, tls=authority.server()) as origin:
        for number in range(rounds):
            for kind, version in (("first", 1), ("update", 2)):
                options = ("--origin", origin.url, "--data", root / f"pull{number}", "--trust", shop.trust)
                command = ("pull", "m", *options, "--ca", authority.path, "--version", version)
                await _timed(note, f"pull, {kind}", Path(sys.executable).with_name("modelsyncd"), *command)
            await _timed(note, "python -c pass", sys.executable, "-c", "pass")
            imports = "import asyncio, ssl, aiohttp"
            await _timed(note, f"python -c '{imports}'", sys.executable, "-c", imports)
    return found


def syncs(root: Path, rounds: int) -> Figures:
    """Seconds that durable writes of a small file cost, each with its rename and its folder."""
    from modelsync_daemon.disk.durable import durable_write

    found: list[float] = []
    for number in range(rounds):
        begin = time.monotonic()
        for _ in range(_SYNCS):
            durable_write(root / "file", str(number).encode())
        found.append((time.monotonic() - begin) / _SYNCS)
    return {"one durable write (file and folder)": found}


Note = Callable[[str, float], None]


def _into(found: Figures) -> Note:
    return lambda stage, figure: found.setdefault(stage, []).append(figure)


def _end(marks: list[Mark], name: str) -> float:
    return max(mark.end for mark in marks if mark.name == name)


def _stages(
    note: Note, marks: list[Mark], begin: float, chain: tuple[tuple[str, str, Callable[..., float]], ...]
) -> None:
    """Where each stage ends: with the begin of the first call of that name, or the end of the last."""
    for stage, name, pick in chain:
        calls = [mark for mark in marks if mark.name == name]
        until = pick(mark.begin if pick is min else mark.end for mark in calls)
        note(stage, until - begin)
        begin = until


def _beside(note: Note, marks: list[Mark], until: float) -> None:
    for what, name in _BESIDE:
        calls = [mark for mark in marks if mark.name == name and mark.begin < until]
        spent = sum(mark.end - mark.begin for mark in calls)
        if name == "worker":  # from its start to the job that it imported for
            spent = sum(mark.begin for mark in marks if mark.name == "_work") - sum(mark.begin for mark in calls)
        if calls:
            note(f"of which {what}", spent)
        if name in ("sync", "transaction"):
            note(f"number of {what}", len(calls))


async def _timed(note: Note, what: str, *command: object) -> None:
    before, begin = _children_seconds(), time.monotonic()
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise SystemExit(f"{what} failed; see above")
    note(what, time.monotonic() - begin)
    note(f"{what}: processor", _children_seconds() - before)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _processor_seconds(pid: int) -> float:
    """What the process has used with its children and theirs, ended ones too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(_processor_seconds(int(c)) for c in below)


async def _pointed(folder: Path, version: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if (folder / "current").readlink().name.startswith(f"{version}-"):
                return
        except OSError:
            pass
        await asyncio.sleep(0.002)
    raise SystemExit(f"version {version} was not activated in time")


async def _reported(hub: Hub, version: int) -> float:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        model = hub.reported("pi").get("modelsync", {}).get("models", {}).get("m", {})
        if model.get("version") == version and model.get("state") == "active":
            return time.monotonic()
        await asyncio.sleep(0.002)
    raise SystemExit(f"version {version} was not reported in time")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure, in seconds")
    options = parser.parse_args()
    _compiled()
    measures: dict[str, Callable[[Path, int], Figures]] = {
        "resident": lambda root, rounds: asyncio.run(resident(root, rounds, ready=False)),
        "resident, ready_worker": lambda root, rounds: asyncio.run(resident(root, rounds, ready=True)),
        "modelsyncd pull": lambda root, rounds: asyncio.run(pulls(root, rounds)),
        "disk": syncs,
    }
    found = {}
    for title, measure in measures.items():
        with tempfile.TemporaryDirectory(prefix="modelsync-active-") as scratch:
            found[title] = measure(Path(scratch), options.rounds)
        _print(title, found[title])
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1))


def _compiled() -> None:
    """As what is installed is; where PYTHONDONTWRITEBYTECODE is set, a checkout would be compiled in each process."""
    for package in (modelsync_daemon, modelsync_protocol):
        compileall.compile_dir(Path(str(package.__file__)).parent, quiet=1)


def _print(title: str, found: Mapping[str, list[float]]) -> None:
    print(f"\n| {title} | least ms | median ms | largest ms |\n|---|---:|---:|---:|")
    for stage, figures in found.items():
        scale = 1 if stage.startswith("number") else 1000
        row = (min(figures) * scale, statistics.median(figures) * scale, max(figures) * scale)
        print(f"| {stage} | {row[0]:.1f} | {row[1]:.1f} | {row[2]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
