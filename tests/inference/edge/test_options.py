"""The arguments of `--edge`: what they mean, and the sentence for what can't be meant."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest

from modelsync_inference.edge import options, rules
from modelsync_protocol.errors import UsageError
from tests.support.infer_process import run_infer

TEXT = "HostName=h;DeviceId=pi;ModuleId=scoring;SharedAccessKey=a2V5"
EDGE = {"IOTEDGE_WORKLOADURI": "unix:///x"}


def read(*arguments: str, environment: dict[str, str] | None = None, models: int = 1) -> options.EdgeOptions | None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", action="append")
    options.add_arguments(parser)
    parsed = parser.parse_args([*arguments, *["--model", "a"] * models])
    return options.read(parsed, EDGE if environment is None else environment)


def test_without_edge_nothing_is_looked_at() -> None:
    assert read("--edge-sample", "nonsense", environment={}) is None


def test_the_defaults_are_those_of_the_command_line() -> None:
    assert read("--edge") == options.EdgeOptions()


def test_every_option_is_understood(tmp_path: Path) -> None:
    (tmp_path / "connection").write_text(TEXT + "\n")
    (tmp_path / "ca.pem").write_text("PEM")
    given = (
        *("--edge-output", "up", "--edge-all-output", "near", "--edge-errors", "drop", "--edge-full", "drop-newest"),
        *("--edge-sample", "change:y=0.5,z=0", "--edge-fields", "X=a,b", "--edge-fields", "Z=c", "--edge-queue", "7"),
        *("--edge-connection-file", str(tmp_path / "connection"), "--edge-ca", str(tmp_path / "ca.pem")),
    )
    assert read("--edge", "--edge-include-inputs", *given, environment={}) == options.EdgeOptions(
        identity=options.EdgeIdentity(TEXT, "PEM"),
        output="up",
        all_output="near",
        error_output=None,
        fields={"X": ("a", "b"), "Z": ("c",)},
        sample=rules.Change({"y": 0.5, "z": 0.0}),
        include_inputs=True,
        queue=7,
        drop_newest=True,
    )
    found = read("--edge", environment={options.CONNECTION_VARIABLE: TEXT})
    assert found is not None and found.identity == options.EdgeIdentity(TEXT)


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        ((), {}, "needs IoT Edge's environment, or a module's connection string"),
        ((), {options.CONNECTION_VARIABLE: TEXT.replace("ModuleId=scoring;", "")}, "lacks ModuleId; only modules"),
        (("--edge-connection-file", "/nowhere"), {}, "/nowhere can't be read"),
        (("--edge-output", "a/b"), EDGE, "--edge-output 'a/b' is not an output's name"),
        (("--edge-all-output", ""), EDGE, "--edge-all-output '' is not an output's name"),
        (("--edge-queue", "0"), EDGE, "--edge-queue must be from 1"),
        (("--edge-sample", "sometimes"), EDGE, "none of every:N"),
        (("--edge-fields", ","), EDGE, "--edge-fields"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    arguments: tuple[str, ...], environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        read("--edge", *arguments, environment=environment)


def test_one_module_is_for_one_model() -> None:
    with pytest.raises(UsageError, match="run a module per model"):
        read("--edge", models=2)


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"install modelsync-inference\[edge\]"):
        read("--edge")


def test_the_command_says_it_in_one_line_and_ends_with_2(tmp_path: Path) -> None:
    ended = run_infer("--data", str(tmp_path), "--model", "a", "--edge")
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    assert "IoT Edge's environment" in ended.stderr
