"""deploy/fleet as it stands: systemd accepts the units; what units, cron and cluster start carries a rollout on."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.server.rollout.conftest import MODEL, World
from tests.server.rollout.test_rollout_cli import FAST, modelsync, populate
from tests.support.units import Unit, root_with, systemd_analyze

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "fleet"
SERVICES = sorted(path.name for path in FOLDER.glob("*.service"))
INSTALLED = "/opt/modelsync/bin/modelsync"


def test_systemd_accepts_every_line(tmp_path: Path) -> None:
    analyze = systemd_analyze()
    root = root_with(FOLDER, tmp_path / "root", (INSTALLED.lstrip("/"),))
    units = [*SERVICES, *(path.name for path in FOLDER.glob("*.timer"))]
    assert len(units) == 3
    command = [analyze, "verify", "--man=no", f"--root={root}", *units]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", SERVICES)
def test_the_services_give_up_what_they_do_not_need(name: str) -> None:
    command = [systemd_analyze(), "security", "--offline=true", "--threshold=15", str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1] + done.stderr
    service = Unit(FOLDER / name)["Service"]
    assert service["DynamicUser"] == ["yes"] and service["ProtectSystem"] == ["strict"]


def started(name: str) -> str:
    """What a unit starts, as a line of shell."""
    [line] = Unit(FOLDER / name)["Service"]["ExecStart"]
    return line.replace("${STORE}", '"$STORE"')


def cron() -> str:
    lines = [line for line in (FOLDER / "rollout.cron").read_text().splitlines() if not line.startswith("#")]
    [line] = lines
    *times, user, command = line.split(maxsplit=6)
    assert times == ["*/5", "*", "*", "*", "*"] and re.fullmatch(r"[a-z-]+", user) and "%" not in command
    return command


def cluster() -> str:
    [deployment] = [
        each for each in yaml.safe_load_all((FOLDER / "rollout.yaml").read_text()) if each["kind"] == "Deployment"
    ]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert [each["name"] for each in container["env"]] == ["MODELSYNC_SERVICE"]
    assert container["args"][0] == "modelsync"
    return shlex.join([INSTALLED, *container["args"][1:]]).replace("azblob://ACCOUNT/models", '"$STORE"')


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        pytest.param(started("modelsync-rollout-step.service"), True, id="step.service"),
        pytest.param(cron(), True, id="cron"),
        pytest.param(started("modelsync-rollout.service"), False, id="run.service"),
        pytest.param(cluster(), False, id="cluster"),
    ],
)
async def test_what_is_started_carries_a_rollout_on(world: World, tmp_path: Path, line: str, ends: bool) -> None:
    """With the commands and the settings file where this test has them; all else as it stands."""
    populate(world)
    code, _, err = await modelsync(
        world, "rollout", "start", world.store, MODEL, "--ring", "canary:tags.ring='canary'", "--ring", "rest:*", *FAST,
        "--yes",
    )  # fmt: skip
    assert code == 0, err
    world.puppets.answer()
    settings = tmp_path / "rollout.env"
    settings.write_text(f"STORE='{world.store}'\nMODELSYNC_SERVICE='{world.hub.service}'\n")
    assert "--store" in line
    line = line.replace(INSTALLED, str(Path(sys.executable).with_name("modelsync")))
    line = line.replace("/etc/modelsync/rollout.env", str(settings))
    if "rollout.env" not in line:
        line = f"set -a; . {settings}; exec {line}"
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", line),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )
    if ends:
        out, said = await process.communicate()
        assert process.returncode == 0, said.decode()
    else:
        assert process.stdout is not None
        out = b""
        while b"is open for 3 devices" not in out:
            found = await asyncio.wait_for(process.stdout.readline(), 90)
            assert found, "it ended"
            out += found
        process.terminate()
        await process.communicate()
    assert b"ring canary passed" in out
    assert [ring.state for ring in (await world.status()).rings] == ["passed", "open"]
