"""The resident process imports nothing heavy: tuf, zstandard and numpy belong to the worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.budgets import within
from tests.support.figures import record

HEAVY = {"tuf", "securesystemslib", "zstandard", "numpy", "pydantic", "typer", "rich"}

PACKAGES = {
    *("aiohappyeyeballs", "aiohttp", "aiosignal", "attr", "frozenlist", "idna", "multidict", "propcache", "yarl"),
    *("azure", "charset_normalizer", "certifi", "deprecation", "janus", "packaging", "paho", "requests"),
    *("requests_unixsocket", "socks", "typing_extensions", "urllib3"),
    "backports",  # a name that LiteRT's dependency declares at every start of Python; a device has it only with LiteRT
    *("brotli", "cython_runtime", "dns"),  # optional: of aiohttp, urllib3 and paho; a device has none of them
    *("rfc8785", "sd_notify"),
}
"""What `modelsyncd run` may import from others; most of it is azure-iot-device and what that needs."""


def _imported(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("import modelsync_daemon.service, modelsync_daemon.control.azure", {"prometheus_client"}),
        ("import modelsync_daemon.service", {"prometheus_client", "azure"}),
        ("import modelsync_daemon.cli, modelsync_daemon.local.socket_client", {"aiohttp", "azure", "sqlite3"}),
    ],
)
def test_nothing_heavy_is_imported(code: str, more: set[str]) -> None:
    imported = _imported(code)
    assert "modelsync_daemon" in imported
    assert not imported & (HEAVY | more)


def test_the_worker_does_import_it() -> None:
    """Else the test above would prove nothing."""
    assert {"tuf", "zstandard"} <= _imported(
        "import modelsync_daemon.workers.job_runner, modelsync_daemon.trust.tuf_refresh"
    )


def _resident_modules() -> list[str]:
    """What `modelsyncd run` has imported when it follows a hub, in the order of the imports."""
    code = "import modelsync_daemon.cli, modelsync_daemon.service, modelsync_daemon.control.azure"
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    ).stdout.split()


def test_the_resident_process_imports_a_known_list_of_packages() -> None:
    """A new entry is paid for in memory on every device: leave it out, import it in the worker, or add it knowingly."""
    modules = _resident_modules()
    top = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert {name for name in top if not name.startswith(("_", "modelsync"))} <= PACKAGES
    within("modules that the resident process imports", len(modules), 750, "modules")


def test_the_resident_process_knows_no_format_of_what_the_origin_sends() -> None:
    """It holds the hub's credentials: objects, metadata and models are read by the worker, which holds none."""
    known = {name.removeprefix("modelsync_protocol.") for name in _resident_modules() if "modelsync_protocol." in name}
    ours = {name for name in known if name.partition(".")[0] != "policy"}  # the policy of the twin, which it reads
    assert ours <= {"canonical", "caps", "errors", "names", "near_names", "twin"}


def test_nothing_of_applications_is_imported_where_none_is_told() -> None:
    """Their room is awake only where the settings name one (tests/daemon/consumers imports it)."""
    assert not [name for name in _resident_modules() if name.startswith("modelsync_daemon.consumers")]


def test_the_time_of_the_imports_is_recorded() -> None:
    """It is told, not asserted: a busy machine takes longer."""
    code = "import modelsync_daemon.cli, modelsync_daemon.service, modelsync_daemon.control.azure"
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, timeout=240, check=True
    ).stderr
    own: dict[str, int] = {}
    for line in told.splitlines()[1:]:
        microseconds, _, name = line.removeprefix("import time:").split("|")
        package = name.strip().partition(".")[0]
        package = package if package in PACKAGES or package.startswith("modelsync") else "the standard library"
        own[package] = own.get(package, 0) + int(microseconds)
    whole = sum(own.values())
    for package, spent in sorted(own.items(), key=lambda item: -item[1])[:6]:
        record("imports", package, milliseconds=spent // 1000, share=f"{100 * spent / whole:.0f} %")
    record("imports", "all", milliseconds=whole // 1000, share="100 %")
