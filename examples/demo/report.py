"""The demo's result: promises held or broken, as tables for a person and as demo-report.json. Measures nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Update:
    """One version change on the device. All sizes in bytes.

    `body_bytes`: bodies from manifests/, packs/ and updates/; `wire_bytes`: TCP payload in both directions, TLS and
    headers included; `full_bytes`: what a first install of the same version costs. `from_version` None: the first.
    """

    model: str
    from_version: int | None
    to_version: int
    body_bytes: int
    wire_bytes: int
    full_bytes: int


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing that modelsync promises, and whether it held; `detail` says with which figures."""

    name: str
    held: bool
    detail: str

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.name, "held": self.held, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Everything that the demo reports. `refetched_bytes`: fetched twice because of its cut and its kill."""

    requests: int
    failed: int
    swaps: int
    updates: Sequence[Update]
    refetched_bytes: int
    promises: Sequence[Promise]

    @property
    def ok(self) -> bool:
        """Whether every promise held; a report without promises proves nothing and is not ok."""
        return kept(self.promises)

    @property
    def exit_code(self) -> int:
        """0 if ok, else 1."""
        return 0 if self.ok else 1

    def to_json(self) -> dict[str, Any]:
        """The form of demo-report.json."""
        return {
            "ok": self.ok,
            "requests": self.requests,
            "failed": self.failed,
            "swaps": self.swaps,
            "updates": [
                {
                    "model": update.model,
                    "from": update.from_version,
                    "to": update.to_version,
                    "bytes": update.body_bytes,
                    "wire_bytes": update.wire_bytes,
                    "full_bytes": update.full_bytes,
                }
                for update in self.updates
            ],
            "refetched_bytes": self.refetched_bytes,
            "promises": [promise.document() for promise in self.promises],
        }

    def write(self, path: Path) -> None:
        """Write demo-report.json to `path`, replacing what is there."""
        write_json(path, self.to_json())

    def show(self, console: Console) -> None:
        """Print the updates, the promises and the verdict."""
        updates = Table(title="What each version change cost", title_justify="left")
        for heading in ("model", "from", "to"):
            updates.add_column(heading)
        for heading in ("bytes", "on the wire", "full install", "share"):
            updates.add_column(heading, justify="right")
        for update in self.updates:
            updates.add_row(
                update.model,
                "–" if update.from_version is None else f"v{update.from_version}",
                f"v{update.to_version}",
                f"{update.body_bytes:,}",
                f"{update.wire_bytes:,}",
                f"{update.full_bytes:,}",
                f"{update.body_bytes / update.full_bytes:.1%}" if update.full_bytes else "–",
            )
        console.print(updates)
        console.print(promises_table(self.promises))
        console.print(
            f"{self.requests:,} requests, {self.failed:,} failed, {self.swaps} swaps, "
            f"{self.refetched_bytes:,} bytes fetched twice: "
            + ("[green]every promise held[/]" if self.ok else "[bold red]a promise broke[/]")
        )


def kept(promises: Sequence[Promise]) -> bool:
    """Whether all held; none at all prove nothing."""
    return bool(promises) and all(promise.held for promise in promises)


def promises_table(promises: Sequence[Promise]) -> Table:
    """Each promise, its verdict and what was seen."""
    table = Table(title="Promises", title_justify="left")
    for heading in ("", "promise", "seen"):
        table.add_column(heading)
    for promise in promises:
        verdict = "[green]held[/]" if promise.held else "[bold red]BROKEN[/]"
        table.add_row(verdict, escape(promise.name), escape(promise.detail))
    return table


def write_json(path: Path, document: object) -> None:
    """Write a report to `path`, replacing what is there."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
