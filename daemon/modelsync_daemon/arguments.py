"""argparse as people expect it: one sentence that says what was probably meant, and completion if it is installed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from modelsync_protocol import near_names


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors name the nearest command, choice or option, and end with 2."""

    def error(self, message: str) -> NoReturn:
        """Usage, then one sentence, as argparse does."""
        super().error(message + near_names.argparse_hint(message, _options(self)))


class ShowVersion(argparse.Action):
    """`--version`: what the installed `package` says; it is asked only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, package: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")
        self.package = package

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        sys.stdout.write(f"{parser.prog} {version(self.package)}\n")
        parser.exit()


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """All options of a parser, and of the sub-command that the command line names."""
    found: list[str] = []
    for action in parser._actions:  # argparse has no public way to list them
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for word in sys.argv[1:]:
                if word in action.choices:
                    found += _options(action.choices[word])
                    break
    return found


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that completes, if argcomplete is installed; at any other time load nothing."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)
