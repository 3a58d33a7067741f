"""docs/hub.md cannot drift: its commands parse, its JSON keys and its Python are what the code has."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from modelsync_server.cli import hub_commands, twin_commands

MANUAL = Path(__file__).parents[3] / "docs" / "hub.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if not kind for line in text.splitlines() if line.startswith("modelsync ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_manual_parses(line: str) -> None:
    app = typer.Typer()
    hub_commands.register(app)
    twin_commands.register(app)
    result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--help"])
    assert result.exit_code == 0, result.output


def test_the_manual_shows_commands_for_each_subcommand() -> None:
    shown = {" ".join(word for word in shlex.split(line)[1:4] if not word.startswith("-")) for line in COMMANDS}
    for command in ("hub hub-state", "hub device add", "twin set pi", "twin get pi", "twin invoke pi"):
        assert command in shown


def test_the_manuals_python_is_python_and_names_what_exists() -> None:
    snippets = [text for kind, text in BLOCKS if kind == "python"]
    assert len(snippets) == 2
    for text in snippets:
        body = "".join(f"    {line}\n" for line in text.splitlines())
        tree = ast.parse(f"async def main():\n{body}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                exec(compile(ast.Module([node], []), "manual", "exec"), {})
