"""`modelsync-bench`: measure, and say what can be measured here."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from modelsync_bench import cuts, environment, fleet_models, namespaces, report_commands, scenarios, story
from modelsync_bench.certificates import make as make_certificates
from modelsync_bench.lab import Lab, LabError
from modelsync_bench.links import DIRECT, LINKS
from modelsync_bench.peers import Site, peers
from modelsync_bench.relay_lab import RelayLab
from modelsync_bench.result import Machine, Result, ResultError, load
from modelsync_bench.runner import Runner, Settings, unsteady
from modelsync_bench.static_origin import static_origin

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

report_commands.register(app)

SCENARIOS = (
    story.STORY,
    scenarios.PAIRS,
    scenarios.INSTALL,
    scenarios.BEHIND,
    "cut",
    environment.ENVIRONMENT,
    fleet_models.FLEET,
)


def main() -> None:
    """The program's entry."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"modelsync-bench {version('modelsync-bench')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What an update costs with each way of doing it, in real bytes on a real line."""


@app.command("peers")
def list_peers() -> None:
    """Say which ways of updating are installed here, and how to get the others."""
    for peer in {**peers(), **story.peers()}.values():
        version = peer.version()
        print(f"{peer.name:18} {version or f'missing: {peer.install}'}")


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="The result; if it is there, the run goes on from it.")] = Path(
        "bench.json"
    ),
    corpus: Annotated[Path | None, typer.Option(help="Folder of pairs; default: the repository's own models.")] = None,
    only: Annotated[str, typer.Option(help="Scenarios, separated by commas.")] = ",".join(SCENARIOS),
    pairs: Annotated[str, typer.Option(help="Pairs, separated by commas; default: all.")] = "",
    peers_: Annotated[str, typer.Option("--peers", help="Peers, separated by commas; default: all.")] = "",
    links: Annotated[str, typer.Option(help="Lines, separated by commas.")] = ",".join(LINKS),
    link_pairs: Annotated[str, typer.Option(help="Pairs for the limited lines; default: all.")] = "",
    bound: Annotated[float, typer.Option(help="Most seconds an update may take on a limited line.")] = 30.0,
    repeat: Annotated[int, typer.Option(min=1, help="How often; bytes of the repeats are compared.")] = 1,
    work: Annotated[Path | None, typer.Option(help="Folder for what is published; kept, and used again.")] = None,
    relay: Annotated[bool, typer.Option(help="Count with a relay although namespaces are permitted.")] = False,
) -> None:
    """Measure, and write one JSON result."""
    known = {**peers(), **story.peers()}
    chosen = _choice(peers_, tuple(known), "--peers")
    lines = _choice(links, tuple(LINKS), "--links")
    wanted = _choice(only, SCENARIOS, "--only")
    try:
        result = load(out) if out.exists() else Result(Machine.here())
    except ResultError as error:
        _stop(str(error))
    settings = Settings(
        tuple(LINKS[name] for name in LINKS if name in lines or name == DIRECT),
        frozenset(link_pairs.split(",")) if link_pairs else None,
        repeat,
        bound,
    )
    # A stop by `kill` leaves no namespace behind either, and what is in a shell's background hears no Ctrl-C by itself.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelsync-bench-")))
        site = _site(stack, folder.absolute(), result, relay)
        wanted_peers = {name: known[name] for name in known if name in chosen}
        runner = Runner(result, out, site, wanted_peers, settings, _progress(stack))
        try:
            if story.STORY in wanted:
                runner.run(story.tasks())
            found = scenarios.pairs(corpus, site.scratch)
            if pairs:
                names = _choice(pairs, tuple(found), "--pairs")
                found = {name: found[name] for name in found if name in names}
            if scenarios.PAIRS in wanted:
                runner.run(scenarios.of_pairs(found))
            if scenarios.INSTALL in wanted:
                runner.run(scenarios.installs(found))
            if scenarios.BEHIND in wanted:
                runner.run(scenarios.behind(site.scratch))
            if "cut" in wanted:
                runner.run_cuts(cuts.tasks(found))
            if environment.ENVIRONMENT in wanted:
                runner.run(environment.tasks(site.scratch))
            if fleet_models.FLEET in wanted:
                # Only bytes are wanted, and they are counted on the direct line.
                direct = replace(settings, links=(LINKS[DIRECT],))
                Runner(result, out, site, wanted_peers, direct, _progress(stack)).run(fleet_models.tasks(site.scratch))
        except KeyboardInterrupt:
            result.save(out)
            _say(f"interrupted: the same command goes on from {out}")
            raise typer.Exit(130) from None
        except FileNotFoundError as error:
            _stop(str(error))
    result.save(out)
    failed = [one for one in result.measurements if one.reason and not one.reason.startswith("not installed")]
    for one in failed:
        _say(f"no figures: {' · '.join(one.key)}: {one.reason}")
    for one in unsteady(result.measurements):
        _say(f"unsteady: {' · '.join(one.key)}: totals {one.totals}")
    raise typer.Exit(1 if failed or unsteady(result.measurements) else 0)


def _site(stack: ExitStack, folder: Path, result: Result, relay: bool) -> Site:
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    certificates = make_certificates(folder / "certificates")
    reason = "a relay was asked for" if relay else namespaces.why_not()
    lab: Lab
    try:
        lab = namespaces.NamespaceLab(scratch, certificates.ca) if reason is None else RelayLab()
        if reason:
            _say(f"bytes are counted by a relay: {reason}")
        result.facts["counter"] = {"counter": lab.counter, "why": reason}
        stack.enter_context(lab)
    except LabError as error:
        _stop(str(error))
    served = folder / "peers"
    served.mkdir(exist_ok=True)
    static = stack.enter_context(static_origin(lab, served, scratch, certificates))
    return Site(lab, certificates, static, served, scratch)


def _choice(text: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    chosen = tuple(part for part in text.split(",") if part) or known
    if unknown := [part for part in chosen if part not in known]:
        _stop(f"{option} {unknown[0]} is unknown: choose among {', '.join(known)}.")
    return chosen


def _progress(stack: ExitStack) -> Callable[[int, int, str], None]:
    """A bar on a terminal, else a line for each measurement."""
    if not sys.stderr.isatty():
        return lambda done, planned, text: _say(f"[{done}/{planned}] {text}")
    bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
    task = bar.add_task("")
    return lambda done, planned, text: bar.update(task, completed=done, total=planned, description=text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _stop(text: str) -> Any:
    _say(text)
    raise typer.Exit(2)
