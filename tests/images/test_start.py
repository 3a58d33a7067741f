"""What images do before and around the commands that they run, as far as it shows without an image."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "deploy" / "image"


def _start(folder: Path, date: str, python: int) -> subprocess.CompletedProcess[str]:
    """The entry point, on a system whose `date` says `date` and whose Python fails to read the clock with `python`."""
    for name, script in (("date", f"echo {date}"), ("python3", f"exit {python}")):
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    path = {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(["sh", IMAGE / "start", "echo", "started"], env=path, capture_output=True, text=True)


@pytest.mark.parametrize("date", ["-1", "0", "17"])
def test_a_clock_that_can_not_be_read_is_explained(tmp_path: Path, date: str) -> None:
    done = _start(tmp_path, date, 1)
    assert done.returncode == 5 and "update libseccomp2 on the host" in done.stderr and not done.stdout


@pytest.mark.parametrize(("date", "python"), [("1764000000", 0), ("1764000000", 1), ("17", 0)])
def test_a_device_without_a_clock_of_its_own_starts(tmp_path: Path, date: str, python: int) -> None:
    done = _start(tmp_path, date, python)
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


def test_what_the_build_context_holds_is_named(tmp_path: Path) -> None:
    """No key, store or virtual environment of a checkout gets into a build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    named = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    dockerfile = (ROOT / "Dockerfile.arm32v7").read_text()
    copied = {words.split()[0].rstrip("/") for words in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)}
    assert named == copied
    assert all((ROOT / path).exists() for path in named)


def test_the_images_names_and_folders_are_those_of_the_deployments() -> None:
    deployment = json.loads((ROOT / "deploy" / "iotedge" / "deployment.json").read_text())
    modules = deployment["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]
    dockerfile = (ROOT / "Dockerfile.arm32v7").read_text()
    assert modules["modelsync"]["env"]["MODELSYNC_DATA"]["value"] in dockerfile
    for module, title in (("modelsync", "modelsyncd"), ("scoring", "modelsync-infer")):
        settings = modules[module]["settings"]
        assert settings["image"].partition(":")[0].endswith(f"/{title}")
        assert f'image.title="{title}"' in dockerfile
        options = json.loads(settings["createOptions"])["HostConfig"]
        assert options["ReadonlyRootfs"] is True
        assert (
            options["Binds"] == ["/var/lib/modelsync:/var/lib/modelsync"] and "VOLUME /var/lib/modelsync" in dockerfile
        )
    command = json.loads(modules["scoring"]["settings"]["createOptions"])["Cmd"]
    assert command[command.index("--host") + 1] == "0.0.0.0", "else no other module reaches it"
    cluster = (ROOT / "deploy" / "k3s" / "modelsync.yaml").read_text()
    assert {"modelsyncd", "modelsync-infer"} == set(re.findall(r"registry.example.com/([a-z-]+):", cluster))


def test_the_pins_of_devices_are_those_that_are_tested() -> None:
    pins = {
        name: dict(
            re.findall(
                r"^([a-z0-9-]+)(?:\[[^\]]*\])?==([^ ]+)",
                (ROOT / "requirements" / f"{name}.txt").read_text(),
                re.MULTILINE,
            )
        )
        for name in ("dev", "device")
    }
    assert pins["device"].items() <= pins["dev"].items()


def test_a_layer_leaves_out_only_packages_that_it_knows() -> None:
    rules = tomllib.loads((IMAGE / "packages.toml").read_text())
    assert set(rules) == {"daemon", "inference", "sklearn", "paths"}
    for layer in ("daemon", "inference", "sklearn"):
        assert not set(rules[layer]["keep"]) & set(rules[layer]["without"])
