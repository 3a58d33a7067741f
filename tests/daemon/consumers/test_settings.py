"""Settings of applications: what is wrong is named by table and key, before anything runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from modelsync_daemon import config
from modelsync_daemon.consumers import configured
from modelsync_daemon.consumers.configured import Configured
from modelsync_protocol.errors import UsageError


def read(text: str) -> Configured:
    document = tomllib.loads(text)
    return configured.read(document.get("models", {}), document.get("consumers", {}), Path("/etc/modelsync"))


GOOD = """
[models.detector.activate]
systemd = "restart detector.service"
ready = {http = {url = "http://127.0.0.1:5000/health"}, unit = "detector.service", seconds = 60}
[models.other]
activate = "triton"
twin_activation = ["triton", "hup", "bus"]
[consumers.triton]
http = [{url = "http://127.0.0.1:8000/v2/repository/models/{name}/load", json = {parameters = {}}}]
check = {command = ["/usr/bin/test", "-e", "{path}/model.onnx"]}
[consumers.hup]
signal = {signal = "USR1", pidfile = "app.pid", program = "app"}
ready = {socket = "[::1]:80"}
[consumers.bus]
[consumers.bus.dbus]
destination = "org.x.App"
path = "/org/x"
interface = "org.x.App"
member = "Load"
signature = "s"
arguments = ["{path}"]
[consumers.script]
command = ["/opt/reload", "{current}"]
read = ["/home/app"]
write = ["state"]
network = true
environment = {MODE = "fast"}
"""


def test_all_kinds_are_read() -> None:
    found = read(GOOD)
    assert sorted(found.plans) == ["bus", "hup", "models.detector.activate", "script", "triton"]
    assert dict(found.models()) == {"detector": "models.detector.activate", "other": "triton"}


def _table(text: str) -> str:
    return f"[consumers.a]\n{text}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[consumers.a]", "needs exactly one of systemd, command, http, signal, dbus, and has none"),
        (_table('systemd = "restart a.service"\ncommand = ["/bin/true"]'), "and has systemd and command"),
        (_table('systemd = "stop a.service"'), "not of the form 'restart NAME.service'"),
        (_table('systemd = "restart a.service; reboot"'), "not of the form"),
        (_table('systemd = "restart --all"'), "not of the form"),
        (_table('command = "/opt/reload now"'), "not a list of a program and its arguments"),
        (_table('command = ["reload"]'), "not an absolute path; there is no shell"),
        (_table('command = ["/opt/reload", "{file}"]'), "{file}, for which there is no value; there are {name}"),
        (_table('command = ["/opt/reload"]\ncolour = 1'), "unknown keys: colour"),
        (_table('command = ["/opt/reload"]\nseconds = 0'), "seconds = 0 is not a time"),
        (_table('command = ["/opt/reload"]\nconfined = "no"'), "confined = 'no' is not true or false"),
        (_table('command = ["/opt/reload"]\nread = "/x"'), "read is a list of paths"),
        (_table('command = ["/opt/reload"]\nready = {seconds = 3}'), "looks at nothing"),
        (_table('command = ["/opt/reload"]\ncheck = {socket = "a:1"}'), "unknown keys: socket"),
        (_table('command = ["/opt/reload"]\nready = {socket = "a"}'), "socket is host:port or"),
        (_table('systemd = "restart a.service"\nnetwork = true'), "network are for a command"),
        (_table('http = {url = "ftp://x"}'), "needs a url such as"),
        (_table('http = {url = "http://me:secret@x/"}'), "without a user in it"),
        (_table('http = {url = "http://x/", method = "FETCH"}'), "method 'FETCH' is none of GET"),
        (_table('http = {url = "http://x/", body = "a", json = {}}'), "has a body and json"),
        (_table('http = {url = "http://x/", status = "ok"}'), "status is a number"),
        (_table('http = {url = "http://x/{nmae}"}'), "{nmae}, for which there is no value"),
        (_table('http = {url = "http://x/", json = {a = ["{oops}"]}}'), "{oops}, for which"),
        (_table('signal = {signal = "HUP"}'), "needs a unit, or a pidfile"),
        (_table('signal = {signal = "KILL", unit = "a.service"}'), "SIGKILL can't make a program load"),
        (_table('signal = {signal = "LOAD", unit = "a.service"}'), "'LOAD' is no signal"),
        (_table('dbus = {destination = "x"}'), "needs destination, path, interface and member"),
        ('[models."a b"]\nactivate = "x"', "a b"),
        ('[models.a]\nactivate = "none"', "there is no [consumers.none]"),
        ('[models.a]\ntwin_activation = ["none"]', "there is no [consumers.none]"),
        ("[models.a]\nactive = 1", "unknown are active"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        read(text)


def test_an_error_repeats_no_header(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(_table('http = {url = "http://x/", headers = {Authorization = 5, Other = "Bearer abc"}}'))
    assert "abc" not in str(caught.value)


def test_paths_are_relative_to_the_file_and_a_module_has_them_in_its_environment(tmp_path: Path) -> None:
    file = tmp_path / "d.toml"
    file.write_text('data = "d"\n[models.m.activate]\nsignal = {pidfile = "app.pid"}\n')
    [plan] = configured.of(config.load(file)).plans.values()
    assert getattr(plan.action, "pidfile") == tmp_path / "app.pid"  # noqa: B009  # of one kind of action only
    environment = {
        "IOTEDGE_WORKLOADURI": "unix:///w",
        "MODELSYNC_DATA": "/data",
        "MODELSYNC_MODELS": '{"m": {"activate": {"systemd": "restart m.service"}}}',
    }
    assert list(configured.of(config.from_environment(environment)).plans) == ["models.m.activate"]
    with pytest.raises(UsageError, match="models is not a table"):
        config.from_environment({**environment, "MODELSYNC_MODELS": "m"})
