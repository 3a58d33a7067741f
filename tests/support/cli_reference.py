"""Writes docs/cli.md from the parsers that our commands really use: `python -m tests.support.cli_reference`.

Commands are found by the packages' entry points: a new command, or a new option, is on the page as soon as it exists.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn
from unittest import mock

import typer

from tests.support.figures import ROOT

PAGE = ROOT / "docs" / "cli.md"
_HEAD = """\
# Commands

<!-- Written by `make pages` from the commands' own parsers; do not edit. -->
Every command, argument and option. Exit codes: 0 done, 2 wrong usage or input, 3 refused (trust, damage, policy),
4 unreachable (try again), 5 trouble on this machine. Where a command has `--json`, keys are only ever added.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `rows` are (what is typed, what it means), positional arguments first."""

    path: str
    summary: str
    usage: str
    rows: tuple[tuple[str, str], ...]
    children: tuple[Command, ...] = ()

    def markdown(self, level: int) -> Iterator[str]:
        """The command's section, then its sub-commands'."""
        yield f"{'#' * level} {self.path}"
        if self.summary:
            yield self.summary
        yield f"```text\n{self.usage}\n```"
        if self.rows:
            rows = [f"| `{typed}` | {_cell(meaning)} |" for typed, meaning in self.rows]
            yield "\n".join(["| argument | meaning |", "|---|---|", *rows])
        for child in self.children:
            yield from child.markdown(level + 1)


def page() -> str:
    """docs/cli.md as it has to be."""
    programs = sorted(_programs(), key=lambda entry: entry.name)
    sections = [text for entry in programs for text in _read(entry).markdown(2)]
    return "\n\n".join([_HEAD.rstrip(), *sections]) + "\n"


def _programs() -> list[EntryPoint]:
    return [entry for entry in entry_points(group="console_scripts") if entry.value.startswith("modelsync_")]


def _read(entry: EntryPoint) -> Command:
    run = entry.load()
    app = getattr(sys.modules[run.__module__], "app", None)
    if isinstance(app, typer.Typer):
        return _of_typer(typer.main.get_command(app), entry.name)
    return _of_argparse(_parser_of(run), entry.name, "")


class _Found(BaseException):
    """Carries a parser out of the program that was about to use it, past the program's own error handling."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parser_of(run: Callable[[list[str]], object]) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *_arguments: object, **_named: object) -> NoReturn:
        raise _Found(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            run([])
        except _Found as found:
            return found.parser
    raise AssertionError(f"{run.__module__} parsed no arguments with argparse")


def _of_argparse(parser: argparse.ArgumentParser, path: str, summary: str) -> Command:
    children: list[Command] = []
    arguments, options, usage = [], [], []
    # argparse has no public way to list what it was given.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            children += [
                _of_argparse(child, f"{path} {name}", helps.get(name, "")) for name, child in action.choices.items()
            ]
            usage.append(str(action.metavar or "COMMAND"))
        elif isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            typed = _option(", ".join(action.option_strings), "" if action.nargs == 0 else _value(action))
            options.append((typed, _expanded(action, parser)))
            if action.required:
                usage.append(_option(action.option_strings[-1], _value(action)))
        else:
            arguments.append((_value(action), _expanded(action, parser)))
            usage.append(_value(action))
    order = ["[OPTIONS]"] if options else []
    about = _sentence(summary or parser.description or "")
    return Command(path, about, " ".join([path, *order, *usage]), tuple(arguments + options), tuple(children))


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return f"{{{','.join(str(choice) for choice in action.choices)}}}"
    return action.dest.upper()


def _expanded(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = action.help or ""
    with suppress(KeyError, TypeError, ValueError):
        text %= {**vars(action), "prog": parser.prog}
    return f"{text} (required)".strip() if action.option_strings and action.required else text


def _of_typer(command: Any, path: str) -> Command:
    children = tuple(_of_typer(child, f"{path} {name}") for name, child in getattr(command, "commands", {}).items())
    arguments, options, usage = [], [], []
    for parameter in command.params:
        if parameter.hidden:
            continue
        if parameter.param_type_name == "argument":
            name = parameter.metavar or parameter.name.upper()
            arguments.append((name, parameter.help or ""))
            usage.append(name if parameter.required else f"[{name}]")
            continue
        value = "" if parameter.is_flag else parameter.metavar or parameter.name.upper().rstrip("_")
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
        options.append((_option(names, value), _with_default(parameter)))
        if parameter.required:
            usage.append(_option(parameter.opts[0], value))
    if children:
        usage.append("COMMAND")
    order = ["[OPTIONS]"] if options else []
    about = " ".join((command.help or "").split())
    return Command(path, about, " ".join([path, *order, *usage]), tuple(arguments + options), children)


def _with_default(parameter: Any) -> str:
    text = parameter.help or ""
    if parameter.required:
        return f"{text} (required)".strip()
    plain = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
    if plain and parameter.default != "" and "default" not in text.lower():
        return f"{text} (default: {parameter.default})".strip()
    return text


def _option(names: str, value: str) -> str:
    return f"{names} {value}" if value else names


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
