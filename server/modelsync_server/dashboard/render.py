"""Turns pages into HTML: the templates, how numbers and times look, addresses of pages. No HTTP, no hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from yarl import URL

from modelsync_protocol.errors import UsageError
from modelsync_server.dashboard.text import shown

STATIC = {
    "style.css": "text/css",
    "htmx.min.js": "text/javascript",
    "live.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


def environment(currency: str) -> Environment:
    """The templates with their filters. Everything is escaped, and a name that is missing is an error."""
    made = Environment(
        loader=PackageLoader("modelsync_server.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "size": size,
        "number": number,
        "age": age,
        "money": money,
        "slug": slug,
        "pretty": pretty,
        "zip_self": zip_self,
    }
    made.globals |= {"link": link, "path": path, "currency": currency}
    return made


def static() -> dict[str, bytes]:
    """The files that pages load, by name."""
    folder = files("modelsync_server.dashboard") / "static"
    return {name: (folder / name).read_bytes() for name in STATIC}


def relative(text: str) -> str:
    """An address of this site as it was given, or the front page for one that leads elsewhere."""
    if not text.startswith("/") or text.startswith("//") or "\\" in text or not text.isprintable():
        return "/"
    try:
        return str(URL(text).relative() if URL(text).absolute else URL(text))
    except ValueError:
        return "/"


def size(value: int | None) -> str:
    """Bytes for people, in the units of a bill: 10³."""
    if value is None:
        return "–"
    amount, unit = float(value), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{value:,} B" if unit == "B" else f"{amount:,.3g} {unit}" if amount < 100 else f"{amount:,.0f} {unit}"


def number(value: int | None) -> str:
    """With separators."""
    return "–" if value is None else f"{value:,}"


def money(value: float | None, currency: str = "") -> str:
    """An amount, to the cent or to two digits that say something."""
    if value is None:
        return "–"
    text = f"{value:,.2f}" if value >= 0.01 or value == 0 else f"{value:.2g}"
    return f"{text} {currency}".strip()


def age(seconds: float) -> str:
    """How old an answer is."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def slug(text: str) -> str:
    """A word as a part of a class or an id in the page."""
    return "".join(each if each.isascii() and each.isalnum() else "-" for each in text)[:40]


def pretty(value: object, most: int = 6000) -> str:
    """A device's answer as lines of JSON; whatever is in it, it is text."""
    lines = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)[:most].splitlines()
    return "\n".join(shown(line, 400) for line in lines)


def zip_self(values: Iterable[str]) -> list[tuple[str, str]]:
    """Choices whose text is their value."""
    return [(value, value) for value in values]


def link(address: str, **query: object) -> str:
    """`address` with these parts of a query set, others kept; None takes one out."""
    url = URL(address)
    taken = [key for key, value in query.items() if value is None]
    return str(url.without_query_params(*taken).update_query({k: str(v) for k, v in query.items() if v is not None}))


def path(prefix: str, name: str) -> str:
    """The address of something that somebody named: nothing in the name leads elsewhere."""
    return prefix + quote(name, safe="")


def whole(text: str, most: int = 999_999) -> int:
    """A number in an address; UsageError."""
    if not text.isdecimal() or len(text) > 9 or int(text) > most:
        raise UsageError(f"{text!r:.20} is no number up to {most:,}.")
    return int(text)
