"""What the suite leans on: ports and addresses that nobody else is given."""

from __future__ import annotations

import subprocess
import sys

from tests.support import addresses


def test_what_was_given_is_given_to_nobody_else_as_long_as_its_process_lives() -> None:
    ports, hosts = [addresses.free_port() for _ in range(30)], [addresses.loopback_address() for _ in range(30)]
    assert len(set(ports)) == len(set(hosts)) == 30
    number = ports[0] - addresses._FIRST_PORT
    code = "import sys; from tests.support import addresses; print(addresses._claim(int(sys.argv[1])))"
    child = [sys.executable, "-c", code]
    assert subprocess.run([*child, str(number)], capture_output=True, text=True).stdout == "False\n"
    assert {subprocess.run([*child, "40600"], capture_output=True, text=True).stdout for _ in range(2)} == {"True\n"}
