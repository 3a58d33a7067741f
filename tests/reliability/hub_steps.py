"""What a hub does to its state directory, as a process to be recorded: `python -m tests.reliability.hub_steps DIR`.

After each step that a client was told of it says so on stdout; hub_check.py holds it to that.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from modelsync_server.hub import certificates
from modelsync_server.hub.state import State, exclusive
from modelsync_server.iothub.identity import Identity

DEVICE = Identity("pi")
STEPS = 4


def main(directory: Path) -> None:
    """A first start, a device, and STEPS changes of its twin."""
    with exclusive(directory):
        certificates.ensure(directory, "127.0.0.1")
        say("certificates")
        with State(directory) as state:
            state.add(DEVICE, primary_key="a2V5", secondary_key="a2V5")
            say("device")
            for number in range(1, STEPS + 1):
                twin = state.twin(DEVICE)
                assert twin is not None
                state.save_twin(DEVICE, replace(twin, tags={"step": number}, version=twin.version + 1))
                state.save_subscriptions(DEVICE, frozenset({f"topic/{number}"}))
                say(f"step {number}")


def say(text: str) -> None:
    """Tell the client; by now it must be durable."""
    os.write(1, f"{text}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
