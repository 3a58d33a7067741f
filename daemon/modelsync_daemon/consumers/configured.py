"""All applications of a device's settings, and which of them a model's versions go to, now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelsync_daemon.activate.consumer import Consumer
from modelsync_daemon.config import Settings, Tables
from modelsync_daemon.consumers.consumer import Application, Plan
from modelsync_daemon.consumers.settings import Reader
from modelsync_daemon.disk.datadir import DataDir
from modelsync_protocol import names
from modelsync_protocol.errors import UsageError

_NOTHING = Tables({}, Path("/"))


class Configured:
    """Read once. `[models.NAME]` has `activate`, a table or the label of one in `[consumers]`, and
    `twin_activation`, the labels that the twin may choose instead."""

    def __init__(
        self, plans: Mapping[str, Plan], defaults: Mapping[str, str], allowed: Mapping[str, frozenset[str]]
    ) -> None:
        """`plans` by label, `defaults` and `allowed` labels by model."""
        self.plans, self._defaults, self._allowed = plans, defaults, allowed
        self._applications: dict[tuple[str, str], Application] = {}

    def models(self) -> Mapping[str, str]:
        """The label of each model whose application is told when the twin does not choose."""
        return self._defaults

    def chooser(self, data: DataDir, wished: Callable[[str], str]) -> Callable[[str], Consumer | None]:
        """Who is told of a model's versions; `wished`: the label that the twin chooses for it, or empty."""

        def choose(name: str) -> Consumer | None:
            label = wished(name)
            if label not in self._allowed.get(name, frozenset()):
                label = self._defaults.get(name, "")
            if not label:
                return None
            key = (name, label)
            if key not in self._applications:
                self._applications[key] = Application(self.plans[label], data)
            return self._applications[key]

        return choose


def of(settings: Settings) -> Configured:
    """Read the settings' tables. Raises UsageError."""
    models, consumers = settings.models or _NOTHING, settings.consumers or _NOTHING
    base = (settings.consumers or settings.models or _NOTHING).base
    return read(models.values, consumers.values, base, settings.require_confinement)


def read(models: Mapping[str, Any], consumers: Mapping[str, Any], base: Path, required: bool = False) -> Configured:
    """Read both tables. Raises UsageError."""
    reader = Reader(base, required)
    plans = {label: reader.plan(f"[consumers.{label}]", table) for label, table in consumers.items()}
    defaults, allowed = {}, {}
    for name, table in models.items():
        names.check_model_name(name)
        where = f"[models.{name}]"
        if not isinstance(table, Mapping) or (unknown := sorted(table.keys() - {"activate", "twin_activation"})):
            more = f"; unknown are {', '.join(unknown)}" if isinstance(table, Mapping) else ""
            raise UsageError(f"{where} is a table of activate and twin_activation{more}.")
        chosen, own = table.get("activate"), f"models.{name}.activate"
        if isinstance(chosen, str):
            defaults[name] = _label(where, chosen, consumers)
        elif chosen is not None:
            plans[own], defaults[name] = reader.plan(f"[{own}]", chosen), own
        labels = table.get("twin_activation", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UsageError(f"{where}: twin_activation is a list of labels of [consumers].")
        allowed[name] = frozenset(_label(where, label, consumers) for label in labels)
    return Configured(plans, defaults, allowed)


def _label(where: str, label: str, consumers: Mapping[str, Any]) -> str:
    if label not in consumers:
        raise UsageError(f"{where} names {label!r:.60}, and there is no [consumers.{label:.60}].")
    return label
