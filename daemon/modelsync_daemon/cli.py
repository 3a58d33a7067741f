"""The command `modelsyncd`: parses arguments, prints results, turns errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelsync_daemon.arguments import Parser, ShowVersion, complete
from modelsync_protocol.errors import LocalError, ModelsyncError, UsageError


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; never returns."""
    parser = _parser()
    complete(parser)
    options = parser.parse_args(arguments)
    del parser  # every worker of `run` would copy a part of it
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    code = 0
    try:
        code = options.command(options) or 0
    except ModelsyncError as error:
        code = _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _complain("interrupted.", 4)
    except BrokenPipeError:
        code = 5
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        code = _complain(f"this machine is in the way: {error.strerror or error}{where}.", LocalError.exit_code)
    except Exception as error:  # a person gets a sentence, whatever broke
        if type(error).__module__ == "sqlite3":  # not imported here: `status` of a running daemon needs none
            code = _complain(f"state.db can't be used ({error}); check disk and permissions.", LocalError.exit_code)
        else:
            code = _complain(f"a defect: {type(error).__name__}: {error}; please report it.", 1)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # The hub's SDK leaves threads behind that could hold the process for minutes; all that matters is durable.
    os._exit(code)


def _complain(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # a log on the disk that is full: the exit code still tells
        sys.stderr.write(f"modelsyncd: {text}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="modelsyncd", description="Keeps models on this device up to date.")
    parser.add_argument("--version", action=ShowVersion, package="modelsync-daemon")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="follow the twin until stopped")
    run.add_argument("--config", type=Path, help="settings (TOML); without it IoT Edge's environment is used")
    run.add_argument("--verbose", action="store_true", help="log every step to stderr")
    run.set_defaults(command=_run)

    pull = commands.add_parser("pull", help="fetch and activate one model now, without a hub")
    pull.add_argument("name", metavar="NAME")
    pull.add_argument("--origin", required=True, metavar="URL")
    _add_data(pull)
    pull.add_argument("--trust", type=Path, metavar="FILE", help="root.json; needed for an empty data directory")
    pull.add_argument("--ca", type=Path, metavar="FILE", help="PEM file to check the origin's certificate against")
    pull.add_argument("--sas-file", type=Path, metavar="FILE", help="file with the secret query (SAS) of the origin")
    pull.add_argument("--proxy", metavar="URL", help="HTTP proxy on the way to the origin")
    pull.add_argument("--version", type=int, metavar="N", help="this version instead of the newest")
    pull.add_argument(
        "--ignore-requires", action="store_true", help="fetch it even if this device can't run it, as far as is known"
    )
    _add_progress(pull)
    pull.add_argument("--json", action="store_true", help="print one JSON document")
    pull.set_defaults(command=_pull)

    status = commands.add_parser("status", help="show every model's state")
    _add_data(status)
    status.add_argument("--json", action="store_true", help="print one JSON document")
    status.add_argument("--running", action="store_true", help="fail (exit code 4) unless a daemon runs and answers")
    status.add_argument("--watch", action="store_true", help="show it anew every second, until Ctrl-C")
    status.set_defaults(command=_status)

    logs = commands.add_parser(
        "logs",
        help="show what the daemon did last",
        description="The last 500 records of the daemon that runs; of one that does not, what journald kept.",
    )
    _add_data(logs)
    logs.add_argument("--model", metavar="NAME", help="only what is about this model")
    logs.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    logs.add_argument("--json", action="store_true", help="print one JSON document a line")
    logs.set_defaults(command=_logs)

    for name, text in (
        ("rollback", "go back to the kept previous version, and hold it"),
        ("release", "end a hold or a quarantine, and try again what this device could not run"),
        ("hold", "keep what serves, whatever the twin says"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", metavar="NAME")
        _add_data(command)
        command.add_argument("--json", action="store_true", help="print one JSON document")
        command.set_defaults(command=_operate, operation=name)

    for name, text, run_it in (
        ("gc", "remove what nothing refers to: old versions, half-built ones", _gc),
        ("scrub", "hash what is installed, and have the daemon mend what is damaged", _scrub),
    ):
        command = commands.add_parser(name, help=text)
        _add_data(command)
        command.add_argument("--json", action="store_true", help="print one JSON document")
        command.set_defaults(command=run_it)

    brought = commands.add_parser(
        "import",
        help="bring what an offline medium has for this device",
        description="Takes what `modelsync export` wrote, a folder or a file, through the same checks as a download. A "
        "running daemon does it; where none runs, this process does, as pull.",
    )
    brought.add_argument("path", type=Path, metavar="PATH", help="the folder or file of the export")
    _add_data(brought)
    brought.add_argument("--trust", type=Path, metavar="FILE", help="root.json; needed for an empty data directory")
    _add_progress(brought)
    brought.add_argument("--json", action="store_true", help="print one JSON document")
    brought.set_defaults(command=_import)

    report = commands.add_parser(
        "export-report",
        help="write what this device would report, for a hub that it can't reach",
        description="The file is signed with the device's key; `modelsync import-report` sets it at the hub, once.",
    )
    report.add_argument("out", type=Path, metavar="OUT", help="the file to write; - for stdout")
    report.add_argument("--config", required=True, type=Path, metavar="FILE", help="the daemon's settings (TOML)")
    report.add_argument("--json", action="store_true", help="print one JSON document")
    report.set_defaults(command=_export_report)

    doctor = commands.add_parser(
        "doctor",
        help="look for what fails or soon will, and say which command mends it",
        description="Ends with 0 if nothing fails now (warnings may stand there), else with the code that a command "
        "would end with because of the first problem: 2, 3, 4 or 5.",
    )
    doctor.add_argument("--config", type=Path, metavar="FILE", help="the daemon's settings (TOML)")
    doctor.add_argument("--data", type=Path, metavar="DIR", help="a data directory without settings")
    doctor.add_argument("--offline", action="store_true", help="ask neither origin nor hub (they cost a few KB)")
    doctor.add_argument("--json", action="store_true", help="print one JSON document")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the data directory")


def _add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--progress",
        metavar="FORM",
        help="how far it is, on standard error: bar, json (one JSON object a line) or none; "
        "auto, the default or MODELSYNC_PROGRESS: a bar on a terminal",
    )


def _run(options: argparse.Namespace) -> None:
    from modelsync_daemon.workers.zygote import Zygote

    # Before any secret is in memory, which workers would inherit, and before imports that only the resident needs.
    zygote = Zygote.start()
    import asyncio

    from modelsync_daemon import config
    from modelsync_daemon.local import logs
    from modelsync_daemon.service import serve

    settings = config.load(options.config) if options.config else config.from_environment(os.environ)
    recent = logs.configure(settings.log_format, options.verbose)
    asyncio.run(serve(settings, zygote, recent))


def _pull(options: argparse.Namespace) -> None:
    gc.disable()  # until it has imported everything, all of which stays: looking for what goes takes a twentieth of it
    from modelsync_daemon import api, progress_line

    with progress_line.shown("pull", options.name, options.progress) as progress:
        result = api.pull(
            options.name,
            options.origin,
            options.data,
            trust=options.trust,
            version=options.version,
            ca=options.ca,
            sas_file=options.sas_file,
            proxy=options.proxy,
            check_requirements=not options.ignore_requires,
            progress=progress.bytes,
            stage=progress.stage,
            stop_on_signals=True,
            own_process=True,
        )
    if options.json:
        _print_json(result.document)
    else:
        cost = f"{result.bytes} bytes in {result.requests} requests ({result.received + result.sent} on the wire)"
        _print(f"{result.name} {result.version} is {result.state}: {result.kind}, {cost} in {result.seconds} s.")
        _print(str(result.path))


def _status(options: argparse.Namespace) -> None:
    from modelsync_daemon import api, watch_command

    if options.watch:
        if options.json:
            raise UsageError("--watch is for people and --json for programs: give one of them.")
        with contextlib.suppress(KeyboardInterrupt):
            watch_command.watch(options.data, options.running, _print)
        return
    document = api.status_document(options.data, running=options.running)
    if options.json:
        _print_json(document)
    else:
        _print("\n".join(watch_command.lines(document)))


def _logs(options: argparse.Namespace) -> None:
    from modelsync_daemon import logs_command

    with contextlib.suppress(KeyboardInterrupt):
        logs_command.run(_data(options), options.model, options.follow, options.json, _print)


def _operate(options: argparse.Namespace) -> None:
    from modelsync_daemon import offline
    from modelsync_daemon.local import socket_client

    data, document = _data(options), {"model": options.name}
    try:
        result = socket_client.call(data / "daemon.sock", "POST", f"/v1/{options.operation}", document)
    except socket_client.NoDaemon:
        result = offline.operate(data, options.operation, options.name)
    if options.json:
        _print_json(result or document)
    elif options.operation == "rollback":
        _print(f"{options.name} is back at version {result['version']} and held there; release it to follow again.")
    else:
        _print(f"{options.name}: {options.operation} done.")


def _gc(options: argparse.Namespace) -> None:
    from modelsync_daemon import offline
    from modelsync_daemon.local import socket_client

    data = _data(options)
    try:
        result = socket_client.call(data / "daemon.sock", "POST", "/v1/gc")
    except socket_client.NoDaemon:
        result = offline.collect(data)
    if options.json:
        _print_json(result)
    else:
        gone = [*result["versions"], *(f"half-built {name}" for name in result["builds"])]
        _print(f"removed {', '.join(gone)}." if gone else "nothing to remove.")


def _scrub(options: argparse.Namespace) -> None:
    from modelsync_daemon import scrub_command

    result = scrub_command.run(_data(options))
    if options.json:
        _print_json(result)
    else:
        _print(f"{result['versions']} installed version(s), {result['bytes']} bytes: {len(result['damaged'])} damaged.")
    scrub_command.check(result)


def _import(options: argparse.Namespace) -> int:
    from modelsync_daemon import media_command, progress_line

    with progress_line.shown("import", "import", options.progress) as progress:
        progress.stage("bringing")
        found = media_command.run(
            options.path, options.data, options.trust, progress.bytes, stop_on_signals=True, own_process=True
        )
    if options.json:
        _print_json(found)
    for name, model in found["models"].items() if not options.json else ():
        version = "" if model["version"] is None else f" {model['version']}"
        said = f": {model['text']}" if model["text"] else ""
        _print(f"{name}{version} {media_command.WORDS[model['result']]}, {model['state']}{said}")
    return next((model["exit_code"] for model in found["models"].values() if model["exit_code"]), 0)


def _export_report(options: argparse.Namespace) -> None:
    from modelsync_daemon import config, report_command

    document = report_command.run(options.out, config.load(options.config))
    if options.json and str(options.out) != "-":
        _print_json(document)
    elif str(options.out) != "-":
        _print(f"{options.out}: report {document['sequence']} of {document['device']}.")


def _doctor(options: argparse.Namespace) -> int:
    from modelsync_daemon.doctor.examination import examine
    from modelsync_protocol import findings

    found = examine(options.config, options.data, os.environ, online=not options.offline)
    if options.json:
        _print_json(findings.document(found))
    else:
        _print("\n".join(findings.lines(found)))
    return findings.exit_code(found)


def _data(options: argparse.Namespace) -> Path:
    from modelsync_daemon import api

    return api.check_data(options.data)


def _print_json(document: Any) -> None:
    _print(json.dumps(document))


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
