"""Settings: unknown ones are named, wrong ones explained, and docs/daemon.md lists exactly those there are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modelsync_daemon import config
from modelsync_daemon.config import Settings
from modelsync_protocol.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs"


def _load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "c.toml"
    file.write_text(text)
    return config.load(file)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = _load(tmp_path, 'data = "d"\ntrust = "/etc/root.json"\nwindows = ["22:00-06:00"]\nbytes_per_day = 5')
    assert settings.data == tmp_path / "d" and settings.trust == Path("/etc/root.json")
    assert settings.policy.bytes_per_day == 5 and settings.policy.windows[0].begin == 1320
    assert not settings.has_hub


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('data = "d"\ncolour = 1\nsize = 2', "colour, size"),
        ("", "lacks the setting data"),
        ("data = 5", "not a string"),
        ('data = "d"\nkeep_alive_seconds = "1"', "not a whole number"),
        ('data = "d"\nkeep_alive_seconds = 9999', "5 to 1740"),
        ('data = "d"\nedge = 1', "not true or false"),
        ('data = "d"\nwindows = "22:00-06:00"', "list of strings"),
        ('data = "d"\nwindows = ["25-26"]', "time window"),
        ('data = "d"\norigin = "ftp://x"', "does not begin a URL"),
        ('data = "d"\nedge = true\nconnection_string = "x"', "only one of"),
        ("data = ", "not valid TOML"),
        ('data = "d"\n[control]\nkind = "zigbee"', "none of iothub, mqtt, aws"),
        ('data = "d"\n[control]\nkind = "mqtt"', "needs control_url"),
        ('data = "d"\n[control]\nkind = "mqtt"\nurl = "mqtts://b"', "control_device"),
        ('data = "d"\n[control]\nkind = "mqtt"\nurl = "b:8883"\ndevice = "pi"', "not of the form"),
        ('data = "d"\n[control]\nkind = "mqtt"\nurl = "mqtts://b:x"\ndevice = "pi"', "not of the form"),
        ('data = "d"\n[control]\nkind = "mqtt"\nurl = "mqtts://pi:word@b"\ndevice = "pi"', "holds a user"),
        ('data = "d"\n[control]\nkind = "mqtt"\nurl = "mqtts://b"\ndevice = "a/b"', "device's id"),
        ('data = "d"\n[control]\nkind = "mqtt"\nurl = "mqtts://b"\ndevice = "pi"\ntopic = "a/#"', "begin a topic"),
        ('data = "d"\nedge = true\n[control]\nkind = "mqtt"\nurl = "mqtts://b"\ndevice = "pi"', "one control plane"),
        ('data = "d"\n[control]\nurl = "mqtts://b"', "belongs to a broker"),
        ('data = "d"\nedge = true\n[control]\nclient = "own"', "takes a connection string"),
        ('data = "d"\n[control]\nkind = "mqtt"\nurl = "mqtts://b"\ndevice = "pi"\njobs = true', "those of AWS"),
        ('data = "d"\n[control]\nkeep_alive_seconds = 1', "5 to 65535"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        _load(tmp_path, text)
    assert words in str(caught.value)


def test_a_broker_is_a_table_or_single_settings(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("secret\n")
    table = '[control]\nkind = "mqtt"\nurl = "wss://b/mqtt"\nuser = "pi"\npassword_file = "word"'
    settings = _load(tmp_path, f'data = "d"\n{table}')
    assert settings.has_hub and settings.broker_device == "pi" and settings.read_control_password() == "secret"
    assert settings.read_connection_string() is None
    flat = _load(tmp_path, 'data = "d"\ncontrol_kind = "aws"\ncontrol_url = "mqtts://b:443"\ncontrol_device = "t"')
    assert (flat.control_kind, flat.broker_device, flat.control_jobs) == ("aws", "t", False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        config.load(tmp_path / "none.toml")


def test_a_connection_string_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("HostName=h;DeviceId=d;SharedAccessKey=eA==\n")
    settings = _load(tmp_path, 'data = "d"\nconnection_string_file = "secret"')
    assert settings.has_hub and settings.read_connection_string() == "HostName=h;DeviceId=d;SharedAccessKey=eA=="
    (tmp_path / "secret").write_text("HostName=h")
    with pytest.raises(UsageError, match="lacks DeviceId, SharedAccessKey"):
        settings.read_connection_string()


def test_an_edge_module_is_set_by_its_environment() -> None:
    environment = {
        "IOTEDGE_WORKLOADURI": "unix:///w",
        "MODELSYNC_DATA": "/data",
        "MODELSYNC_METRICS": "false",
        "MODELSYNC_BYTES_PER_DAY": "9",
        "MODELSYNC_WINDOWS": "22:00-06:00, 12:00-13:00",
        "OTHER": "x",
    }
    settings = config.from_environment(environment)
    assert settings.edge and settings.has_hub and settings.data == Path("/data") and not settings.metrics
    assert settings.bytes_per_day == 9 and len(settings.windows) == 2
    with pytest.raises(UsageError, match="colour"):
        config.from_environment({**environment, "MODELSYNC_COLOUR": "red"})
    with pytest.raises(UsageError, match="--config"):
        config.from_environment({"MODELSYNC_DATA": "/data"})


def test_the_settings_table_is_the_settings() -> None:
    rows = {}
    for line in (DOCS / "daemon.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5 and cells[1].startswith("`"):
            rows[cells[1].strip("`")] = cells[2].strip("`")
    expected = {}
    for item in dataclasses.fields(Settings):
        value = item.default
        shown = {None: "none", (): "[]", dataclasses.MISSING: "required", True: "true", False: "false"}
        expected[item.name] = shown[value] if value in shown and not isinstance(value, int) else str(value).lower()
    assert rows == expected
