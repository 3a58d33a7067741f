"""An application that is told through a real systemd: restarted, failing, hanging, reloaded, signalled."""

from __future__ import annotations

import json

import pytest

from tests.support.machine import Machine
from tests.systemd.conftest import CHECKOUT

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

UNIT = """[Service]
ExecStart=/usr/bin/python3 /opt/detector.py /opt/model.json 8090 /run/detector.pid
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=100ms
StartLimitBurst=3
"""

WALK = """
import asyncio, json, signal, sys
from pathlib import Path
from modelsync_daemon.activate.consumer import NotServing
from modelsync_daemon.consumers.actions import SignalAction, UnitAction
from modelsync_daemon.consumers.checks import UnitCheck

model, said = Path("/opt/model.json"), {}

async def tell(name, action, content=None, seconds=10.0):
    if content is not None:
        model.write_text(json.dumps(content))
    try:
        await action.reach(10.0)
        await action.perform({}, seconds)
        await asyncio.sleep(1.5)
        said[name] = "run " + await UnitCheck("detector.service").look({}, 10.0)
    except NotServing as error:
        said[name] = str(error)

async def main():
    restart = UnitAction("restart", "detector.service")
    await tell("good", restart, {"version": 1})
    await tell("again", restart, {"version": 2})
    await tell("bad", restart, {"version": "none"})
    await asyncio.sleep(3)  # it is started again and again, until systemd gives up
    await tell("back", restart, {"version": 2})
    await tell("unknown", UnitAction("restart", "nobody.service"))
    await tell("signal", SignalAction(signal.SIGTERM, unit="detector.service"))
    await tell("down", UnitAction("reload", "detector.service"))
    await tell("slow", UnitAction("restart", "slow.service"), seconds=2.0)
    json.dump(said, sys.stdout)

asyncio.run(main())
"""


def test_a_unit_is_told_by_a_real_systemd(machine: Machine) -> None:
    machine.write("/opt/detector.py", (CHECKOUT / "examples/consumers/detector/detector.py").read_text())
    machine.write("/etc/systemd/system/detector.service", UNIT)
    slow = "[Service]\nType=notify\nTimeoutStartSec=600\nExecStart=/usr/bin/sleep 600\n"
    machine.write("/etc/systemd/system/slow.service", slow)
    machine.write("/opt/walk.py", WALK)
    machine.run("systemctl", "daemon-reload")
    text = machine.run("/usr/lib/modelsync/bin/python3", "/opt/walk.py", seconds=120)
    said: dict[str, str] = json.loads(text[text.index("{") :])
    assert said["good"].startswith("run ") and said["again"].startswith("run ") and said["good"] != said["again"]
    assert said["bad"].startswith(("detector.service is activating", "detector.service is failed"))
    assert said["back"].startswith("run "), "one that failed too often is started again"
    assert said["unknown"] == "there is no unit nobody.service."
    assert said["signal"].startswith("detector.service is inactive")
    assert said["down"] == "detector.service is inactive."
    assert said["slow"].startswith("systemctl did not end within 2 s and was killed")
    machine.run("systemctl", "stop", "detector.service", "slow.service", check=False)
