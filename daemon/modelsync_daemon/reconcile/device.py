"""What this device has and what is asked of it, as those who work for it need it: the limits in force, a worker's job.

It decides nothing and starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsync_daemon.capabilities import device as capabilities
from modelsync_daemon.config import Settings
from modelsync_daemon.disk import ledger as budget
from modelsync_daemon.disk.database import Database
from modelsync_daemon.disk.datadir import DataDir
from modelsync_daemon.disk.ledger import Ledger
from modelsync_daemon.disk.site_ledger import SiteLedger
from modelsync_daemon.network.networks import Networks
from modelsync_daemon.reconcile.desired import DesiredState
from modelsync_daemon.transfer import origin_secret
from modelsync_daemon.workers.messages import Job
from modelsync_protocol.policy.network_rules import UNREADABLE
from modelsync_protocol.twin import NEVER, Policy

if TYPE_CHECKING:
    from modelsync_daemon.transfer.site_access import SiteAccess


@dataclass(frozen=True, slots=True)
class Device:
    """One data directory in use by one process. The caller holds its lock and owns the database."""

    settings: Settings
    data: DataDir
    database: Database
    ledger: Ledger
    desired: DesiredState
    site_ledger: SiteLedger
    networks: Networks
    neighbours: Callable[[], SiteAccess | None] = lambda: None
    """How neighbours are reached now, if there are any."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        data: DataDir,
        database: Database,
        neighbours: Callable[[], SiteAccess | None] = lambda: None,
    ) -> Device:
        """The device of that directory, with what its database remembers."""
        desired, site_ledger = DesiredState(database), SiteLedger(database)
        networks = Networks(
            lambda: desired.now.policy.networks or settings.networks,
            lambda: settings.proxy or desired.now.origin or settings.origin,
            neighbours,
            site_ledger.add,
        )
        ledger = Ledger(database, networks.name)
        return cls(settings, data, database, ledger, desired, site_ledger, networks, neighbours)

    def origin(self) -> str | None:
        """Where artifacts come from: the twin's origin, else the local one."""
        return self.desired.now.origin or self.settings.origin

    def policy(self) -> Policy:
        """The limits in force: the stricter of the local ones, the twin's and the network's. A network's budgets are
        counted apart (see `job`)."""
        policy = budget.stricter(self.settings.policy, self.desired.now.policy)
        rule = self.networks.rule if policy.networks else None
        return policy if rule is None else budget.narrowed(policy, rule)

    def seconds_to_open(self) -> float:
        """Seconds until fetching is allowed by the time windows; 0 if it is."""
        return budget.seconds_to_open(self.policy(), self.database.clock())

    def wrong_policy(self) -> str:
        """What is wrong with the twin's time windows or networks, if that closes them all; else empty."""
        policy, problems = self.desired.now.policy, self.desired.now.problems
        closed = {"policy/windows": NEVER in policy.windows, "policy/networks": UNREADABLE in policy.networks}
        return "; ".join(f"{path}: {problems.get(path, '')}" for path, shut in closed.items() if shut)

    def problems(self) -> dict[str, str]:
        """What is wrong with the desired properties, and with them on this device, by path."""
        now, found = self.desired.now, dict(self.desired.now.problems)
        for name, wish in now.models.items():
            if wish.activate and wish.activate not in self.settings.chosen_by_twin(name):
                found[f"models/{name}/activate"] = (
                    f"this device's settings don't let the twin choose {wish.activate!r:.60} (twin_activation); "
                    "their own choice stands."
                )
        return found

    def seconds_to_close(self) -> float | None:
        """Seconds until the time window that is open closes; None if none does."""
        return budget.seconds_to_close(self.policy(), self.database.clock())

    def job(self, name: str, version: int | None) -> Job:
        """The worker's job that brings that version onto the disk, with the limits in force now."""
        policy, settings, access = self.policy(), self.settings, self.neighbours()
        left, rule = self.ledger.left(policy), self.networks.rule if policy.networks else None
        if rule is not None:
            left = budget.lower(left, self.ledger.left_on(rule))
        return Job(
            name=name,
            version=version,
            origin=self.origin() or "",
            data=str(self.data.root),
            origin_ca=str(settings.origin_ca) if settings.origin_ca else None,
            trust_root=str(settings.trust) if settings.trust else None,
            stall_seconds=settings.stall_seconds,
            rate_limit=policy.rate_limit,
            byte_limit=left,
            update_limit=None if rule is None else rule.max_update_bytes,
            network="" if rule is None else rule.name,
            quarantined=tuple(self.database.quarantined(name)),
            secrets=tuple(map(str, self.secrets())),
            proxy=settings.proxy,
            require_confinement=settings.require_confinement,
            site=None if access is None else access.document(),
            **self.requirements(name),
        )

    def capabilities(self, name: str) -> dict[str, Any]:
        """What model `name` would find here, now."""
        return capabilities.look(self.data.root, self.database, name, self.settings.capabilities_has)

    def requirements(self, name: str) -> dict[str, Any]:
        """A job's fields by which the worker judges what a version requires."""
        if not self.settings.capabilities_check:
            return {}
        refuse = self.settings.capabilities_unknown == "refuse"
        return {"capabilities": self.capabilities(name), "refuse_unknown": refuse}

    def fingerprint(self, name: str) -> str:
        """Changes when something that a version may require does."""
        return capabilities.fingerprint(self.capabilities(name)) if self.settings.capabilities_check else ""

    def site(self) -> dict[str, Any] | None:
        """What neighbours have exchanged, and how many there are; None if there never were any."""
        access, counted = self.neighbours(), self.site_ledger.document()
        if access is None and counted is None:
            return None
        return {"neighbours": 0 if access is None else len(access.peers), **(counted or SiteLedger.NOTHING)}

    def network(self) -> dict[str, Any] | None:
        """The network rule in force, and what each network carried; None without rules."""
        document = self.networks.document()
        return None if document is None else {**document, "ledger": self.ledger.networks()}

    def secrets(self) -> list[Path]:
        """Files that may hold the secret of the origin's URL: a mounted one, and the one that came by method."""
        mounted = self.settings.origin_sas_file
        return [*([mounted] if mounted else []), self.data.root / origin_secret.FILE_NAME]
