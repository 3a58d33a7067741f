"""Applies configurations to twins: who is targeted, which value wins, what is set and taken back. No network here.

Of the configurations that set the same property the one with the highest priority wins (of equals, the newest).
What a configuration set is removed when it no longer applies, as Azure documents it. A change of a configuration and
of all twins that it moves is one durable transaction; devices hear of it afterwards.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelsync_protocol.errors import UsageError
from modelsync_server.hub.configurations import model
from modelsync_server.hub.configurations.model import Configuration, Path
from modelsync_server.hub.registry import Registry, check_match
from modelsync_server.hub.state import State, utc_now
from modelsync_server.hub.twin_view import TwinView
from modelsync_server.iothub.errors import HubError
from modelsync_server.iothub.identity import Identity
from modelsync_server.iothub.twin_document import Json
from modelsync_server.query import Condition, Query, parse

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS configurations (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS configured (device TEXT NOT NULL, module TEXT NOT NULL, statuses TEXT NOT NULL,"
    " owned TEXT NOT NULL, PRIMARY KEY (device, module)) WITHOUT ROWID",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """What configurations did to one twin: their status by id, and the properties that they set."""

    statuses: Mapping[str, str] = field(default_factory=dict)
    owned: frozenset[Path] = frozenset()


_UNTOUCHED = Configured()
Notices = list[tuple[Identity, Json]]


class Configurations:
    """All configurations of a hub, and what they did. Lives on the hub's event loop."""

    def __init__(self, state: State, registry: Registry, view: TwinView) -> None:
        self._state, self._registry, self._view = state, registry, view
        with state.transaction() as db:
            for statement in _SCHEMA:
                db.execute(statement)
            stored = db.execute("SELECT id, body FROM configurations").fetchall()
            done = db.execute("SELECT device, module, statuses, owned FROM configured").fetchall()
        self._all = {identifier: model.load(identifier, body) for identifier, body in stored}
        self._conditions: dict[str, Condition | None] = {each.id: each.condition for each in self._all.values()}
        self._done = {
            Identity(device, module or None): Configured(json.loads(statuses), frozenset(map(tuple, json.loads(owned))))
            for device, module, statuses, owned in done
        }
        view.statuses = lambda identity: dict(self._done.get(identity, _UNTOUCHED).statuses)
        registry.on_tags = self.apply_to

    # Reading

    def all(self) -> list[Configuration]:
        """In order of their ids."""
        return [self._all[identifier] for identifier in sorted(self._all)]

    def get(self, identifier: str) -> Configuration:
        """HubError 404 if it is not there."""
        if identifier not in self._all:
            raise model.not_found(identifier)
        return self._all[identifier]

    def measured(self, wanted: Iterable[Configuration]) -> list[Json]:
        """Their documents, with all metrics counted now, in one walk over the twins."""
        chosen = list(wanted)
        queries: list[tuple[str, str, Query]] = []
        for each in chosen:
            named = {f"system:{name}": text for name, text in each.system_queries().items() if text}
            named |= {f"custom:{name}": text for name, text in each.metrics.items()}
            queries += [(each.id, name, parse(text)) for name, text in named.items()]
        counts: dict[tuple[str, str], int] = {(identifier, name): 0 for identifier, name, _ in queries}
        for modules in (False, True):
            asked = [item for item in queries if item[2].modules is modules]
            for _, document in self._view.all(modules=modules) if asked else ():
                for identifier, name, query in asked:
                    if query.matches(document):
                        counts[identifier, name] += 1
        return [
            each.document(
                {name: counts.get((each.id, f"system:{name}"), 0) for name in ("targetedCount", "appliedCount")},
                {name: counts[each.id, f"custom:{name}"] for name in each.metrics},
            )
            for each in chosen
        ]

    # Changing

    def put(self, identifier: str, body: Json, if_match: str | None) -> Configuration:
        """Create a configuration, or change one if `if_match` is its ETag or '*'; twins follow at once."""
        existing = self._all.get(identifier)
        if existing is None and if_match is not None:
            raise model.not_found(identifier)
        if existing is not None:
            if if_match is None:
                raise model.exists(identifier)
            check_match(if_match, existing.etag)
        made = model.from_body(identifier, body, utc_now(), existing)
        if existing is None and len(self._all) >= model.MAX_CONFIGURATIONS:
            raise model.limit_reached()
        applied = existing is None or (existing.target_condition, existing.priority) != (
            made.target_condition,
            made.priority,
        )
        self._change(identifier, made, apply=applied)
        return made

    def delete(self, identifier: str, if_match: str | None) -> None:
        """Remove a configuration; what it set is taken back or replaced by the next one."""
        check_match(if_match, self.get(identifier).etag)
        self._change(identifier, None, apply=True)

    def _change(self, identifier: str, made: Configuration | None, *, apply: bool) -> None:
        before = dict(self._all), dict(self._conditions), dict(self._done)
        notices: Notices = []
        try:
            with self._state.transaction() as db:
                if made is None:
                    del self._all[identifier], self._conditions[identifier]
                    db.execute("DELETE FROM configurations WHERE id=?", (identifier,))
                else:
                    self._all[identifier], self._conditions[identifier] = made, made.condition
                    db.execute("INSERT OR REPLACE INTO configurations VALUES (?,?)", (identifier, made.dump()))
                if apply:
                    notices = [notice for device in self._devices() for notice in self._apply_device(device)]
        except BaseException:
            self._all, self._conditions, self._done = before
            raise
        self._tell(notices)

    # Applying

    def apply_all(self) -> None:
        """Look at every twin again: conditions may be about what devices report, and hands may have edited twins."""
        if not self._all and not self._done:
            return
        with self._state.transaction():
            notices = [notice for device in self._devices() for notice in self._apply_device(device)]
        self._tell(notices)

    def apply_to(self, identity: Identity) -> None:
        """Look again at one twin whose tags changed, or which is new (and at the modules of its device)."""
        if not self._all and not self._done:
            return
        with self._state.transaction():
            notices = list(self._apply_device(identity.device))
        self._tell(notices)

    def _devices(self) -> list[str]:
        return [identity.device for identity in self._state.identities(modules=False)]

    def _tell(self, notices: Notices) -> None:
        for identity, notice in notices:
            self._registry.on_desired(identity, notice)

    def _apply_device(self, device: str) -> Iterator[tuple[Identity, Json]]:
        own = Identity(device)
        targeted = self._targeting(own, modules=False)
        yield from self._apply(own, [(each, each.own_parts()) for each in targeted])
        deployments = [each for each in targeted if "modulesContent" in each.content]
        for module in self._state.modules_of(device):
            layers = [
                (each, each.module_parts()[str(module.module)])
                for each in deployments
                if str(module.module) in each.module_parts()
            ]
            layers += [(each, each.own_parts()) for each in self._targeting(module, modules=True)]
            yield from self._apply(module, layers)

    def _targeting(self, identity: Identity, *, modules: bool) -> list[Configuration]:
        """The configurations whose condition holds, the strongest last."""
        candidates = [
            each
            for each in self._all.values()
            if each.targets_modules is modules and self._conditions[each.id] is not None
        ]
        if not candidates:
            return []
        registration, twin = self._registry.registration(identity), self._registry.twin(identity)
        document = self._view.twin(registration, twin)
        held = [each for each in candidates if (condition := self._conditions[each.id]) and condition(document) is True]
        return sorted(held, key=lambda each: (each.priority, each.created, each.id))

    def _apply(
        self, identity: Identity, layers: list[tuple[Configuration, model.Parts]]
    ) -> Iterator[tuple[Identity, Json]]:
        done = self._done.get(identity, _UNTOUCHED)
        if not layers and done is _UNTOUCHED:
            return
        owners = {path: each.id for each, parts in layers for path in parts}
        values = copy.deepcopy(self._registry.twin(identity).desired.values)
        for path in sorted(done.owned - owners.keys(), key=len, reverse=True):
            _remove(values, path)
        for each, parts in layers:
            for path, value in parts.items():
                if owners[path] == each.id:
                    values = _placed(values, path, value)
        winners = set(owners.values())
        statuses = {each.id: "Applied" if each.id in winners or not parts else "Targeted" for each, parts in layers}
        notice = None
        try:
            notice = self._registry.configure(identity, values)
        except (HubError, UsageError) as error:
            _log.warning("%s: the configurations %s can't be applied: %s", identity, ", ".join(statuses), error)
            statuses = dict.fromkeys(statuses, "Targeted")
        self._remember(identity, replace(done, statuses=statuses, owned=frozenset(owners)))
        if notice is not None:
            yield identity, notice

    def _remember(self, identity: Identity, configured: Configured) -> None:
        key = identity.device, identity.module or ""
        if configured == self._done.get(identity, _UNTOUCHED):
            return
        with self._state.transaction() as db:
            if configured.statuses or configured.owned:
                self._done[identity] = configured
                owned = json.dumps(sorted(map(list, configured.owned)))
                row = (*key, json.dumps(dict(configured.statuses)), owned)
                db.execute("INSERT OR REPLACE INTO configured VALUES (?,?,?,?)", row)
            else:
                self._done.pop(identity, None)
                db.execute("DELETE FROM configured WHERE device=? AND module=?", key)

    def forget(self, identity: Identity) -> None:
        """An identity was removed from the registry."""
        self._remember(identity, _UNTOUCHED)


def _placed(values: Json, path: Path, value: Any) -> Json:
    """`values` with `value` at `path`, replacing what was there."""
    if not path:
        return dict(copy.deepcopy(value))
    inner = values
    for step in path[:-1]:
        if not isinstance(inner.get(step), dict):
            inner[step] = {}
        inner = inner[step]
    inner[path[-1]] = copy.deepcopy(value)
    return values


def _remove(values: Json, path: Path) -> None:
    inner: Any = values
    for step in path[:-1]:
        inner = inner.get(step)
        if not isinstance(inner, dict):
            return
    if path:
        inner.pop(path[-1], None)
