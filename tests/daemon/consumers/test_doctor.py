"""The doctor looks at configured applications, and tells nobody anything."""

from __future__ import annotations

import asyncio
from pathlib import Path

from modelsync_daemon.doctor.examination import examine
from modelsync_protocol.findings import Finding


def look(folder: Path, settings: str) -> list[Finding]:
    """What is found of applications."""
    file = folder / "modelsyncd.toml"
    file.write_text(f'data = "{folder}"\n{settings}')
    return [each for each in examine(file, None, {}, online=False) if each.check == "consumers"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    settings = """
[consumers.script]
command = ["/nowhere/reload"]
[consumers.loader]
http = {url = "http://127.0.0.1:1/load?key=secret"}
[consumers.hup]
signal = {pidfile = "app.pid"}
"""
    found = {each.text.split("]")[0]: each for each in look(tmp_path, settings)}
    script, loader, hup = (found[f"[consumers.{label}"] for label in ("script", "loader", "hup"))
    assert script.level.value == "problem" and "/nowhere/reload is not there" in script.text
    assert loader.level.value == "warning" and "127.0.0.1:1 takes no connection" in loader.text
    assert "secret" not in loader.text
    assert hup.level.value == "warning" and "the application does not run" in hup.text


async def test_what_is_there_is_good_and_is_asked_nothing(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = (
            f'[models.m.activate]\nhttp = {{url = "http://127.0.0.1:{port}/load"}}\ncheck = {{command = ["/bin/true"]}}'
        )
        [found] = await asyncio.to_thread(look, tmp_path, settings)
        assert (found.level.value, found.text) == ("ok", "[models.m.activate] can be told of versions.")
        assert asked in ([], [b""]), "it connects and says nothing"


def test_wrong_settings_are_a_problem_with_the_code_that_a_start_ends_with(tmp_path: Path) -> None:
    [found] = look(tmp_path, "[models.m.activate]\ncommand = []")
    assert found.level.value == "problem" and found.code == 2 and "[models.m.activate].command" in found.text


def test_nothing_is_said_where_nobody_is_told(tmp_path: Path) -> None:
    assert look(tmp_path, "") == []
