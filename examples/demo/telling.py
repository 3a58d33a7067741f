"""How a demo talks to its watcher: what happens now, which promise held, all of them as a table. Knows no story."""

from __future__ import annotations

from rich.console import Console

from examples.demo.report import Promise


class Telling:
    """Prints to `console`, and keeps the promises that were seen to hold or to break."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.promises: list[Promise] = []

    def say(self, text: str) -> None:
        """Tell the watcher what happens now."""
        self.console.print(f"[bold]»[/] {text}")

    def promise(self, name: str, held: bool, detail: str) -> None:
        """Note a promise and what was seen of it."""
        self.promises.append(Promise(name, held, detail))
        self.console.print(f"  {'[green]✓[/]' if held else '[bold red]✗[/]'} {name}: {detail}")
