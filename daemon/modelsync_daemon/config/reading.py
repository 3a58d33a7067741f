"""Reads settings: from a TOML file, or from IoT Edge's environment. Knows types; what values mean is settings.py's."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from modelsync_daemon.config.settings import Settings, Tables, read_text
from modelsync_protocol.errors import UsageError
from modelsync_protocol.policy.network_rules import parse_rules

_SECTIONS = ("site", "capabilities", "control")
"""Tables of the file whose keys are settings too: `[site] address` is `site_address`."""

_LISTS = frozenset({"windows", "site_peers", "capabilities_has"})
"""Settings that are lists of strings."""

_TABLES = frozenset({"models", "consumers"})
"""Settings that are tables, read by whoever they are for."""

_SECRET = frozenset({"connection_string", "proxy", "origin", "control_url"})
"""Settings whose value is, or may hold, a secret: an error never repeats it."""

_PATHS = frozenset(
    {
        "data",
        "trust",
        "connection_string_file",
        "ca",
        "origin_ca",
        "origin_sas_file",
        "x509_cert",
        "x509_key",
        "dps_key_file",
        "control_password_file",
        "site_cert",
        "site_key",
        "site_ca",
    }
)


def load(path: Path) -> Settings:
    """Read settings from the TOML file `path`; relative paths in it are relative to its folder. Raises UsageError."""
    try:
        document = tomllib.loads(read_text(path, "--config"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from error
    return from_mapping(document, path.absolute().parent, str(path))


_OTHERS = frozenset({"MODELSYNC_CORE", "MODELSYNC_CACHE_BYTES", "MODELSYNC_PROGRESS"})
"""Variables of the same beginning that say something else: which core is loaded, and two of the publisher's."""


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Settings of an IoT Edge module: MODELSYNC_DATA and any other setting as MODELSYNC_<NAME>. Raises UsageError."""
    if "IOTEDGE_WORKLOADURI" not in environment and "EdgeHubConnectionString" not in environment:
        raise UsageError("no settings: give --config FILE.toml, or run as an IoT Edge module.")
    types = get_type_hints(Settings)
    document: dict[str, Any] = {"edge": True}
    for key, text in environment.items():
        if key.startswith("MODELSYNC_") and key not in _OTHERS:
            name = key.removeprefix("MODELSYNC_").lower()
            document[name] = _from_text(name, text, types.get(name, str))
    return from_mapping(document, Path.cwd(), "the environment")


def from_mapping(document: Mapping[str, Any], base: Path, where: str) -> Settings:
    """Settings of a parsed document; unknown keys and wrong types raise UsageError naming them."""
    types = get_type_hints(Settings)
    for name in _SECTIONS:
        table = document.get(name)
        if isinstance(table, Mapping):  # [site] address = … is site_address = …
            rest = {key: value for key, value in document.items() if key != name}
            document = {**rest, **{f"{name}_{key}": value for key, value in table.items()}}
    unknown = sorted(set(document) - set(types))
    if unknown:
        raise UsageError(f"{where} has unknown settings: {', '.join(unknown)}; known are {', '.join(types)}.")
    if "data" not in document:
        raise UsageError(f"{where} lacks the setting data, the data directory.")
    return Settings(**{key: _checked(key, value, types[key], base) for key, value in document.items()})


def _checked(key: str, value: Any, expected: Any, base: Path) -> Any:
    if key in _PATHS and isinstance(value, str) and value:
        return base / value
    if key == "networks":
        try:
            return parse_rules(value)
        except ValueError as error:
            raise UsageError(f"the setting networks: {error}") from error
    if key in _TABLES:
        if isinstance(value, Mapping):
            return Tables(value, base)
        raise UsageError(f"the setting {key} is not a table, as [{key}.NAME].")
    if key in _LISTS:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise UsageError(f"the setting {key} = {value!r:.60} is not a list of strings.")
    kinds = [kind for kind in (get_args(expected) or (expected,)) if kind in (str, int, bool)]
    if type(value) not in kinds:
        wanted = " or ".join(
            {str: "a string", int: "a whole number", bool: "true or false"}[kind] for kind in kinds or [str]
        )
        shown = "" if key in _SECRET else f" = {value!r:.60}"
        raise UsageError(f"the setting {key}{shown} is not {wanted}.")
    return value


def _from_text(name: str, text: str, expected: Any) -> Any:
    kinds = get_args(expected) or (expected,)
    if name in _TABLES or name == "networks":
        return _json(text)
    if name in _LISTS:
        return [item.strip() for item in text.split(",") if item.strip()]
    if bool in kinds:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if int in kinds:
        try:
            return int(text)
        except ValueError:
            return text
    return text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
