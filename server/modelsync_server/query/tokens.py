"""Cuts a query into tokens, and walks them. No I/O; it knows no grammar.

A query that cannot be cut is a HubError 400 that names the place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelsync_server.iothub.errors import HubError

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w$-])"
    r"|(?P<double>\[\[[^\[\]]+\]\])"
    r"|(?P<name>[A-Za-z_$][\w$-]*)"
    r"|(?P<sign><=|>=|<>|!=|[=<>(),.*;\[\]]))",
    re.ASCII,  # a digit is one of ten; other scripts' digits are not numbers
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its kind (text, number, double, name, sign, end), and as it stands in the query."""

    kind: str
    text: str
    place: int

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords, whatever the case."""
        return self.kind == "name" and self.text.lower() in words


def refused(message: str) -> HubError:
    """A 400 for a query that is not understood."""
    return HubError(400004, "ArgumentInvalid", f"The query is not understood: {message}")


def cut(text: str) -> list[Token]:
    """All tokens and an `end`; HubError 400 for a character that begins none."""
    tokens, place, length = [], 0, len(text.rstrip())
    while place < length:
        found = _TOKEN.match(text, place)
        if found is None or found.lastgroup is None:
            raise refused(f"{text[place : place + 20].strip()!r} at character {place + 1}.")
        tokens.append(Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)))
        place = found.end()
    return [*tokens, Token("end", "", length)]


class Cursor:
    """Where a parser stands in a list of tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens, self._place = tokens, 0

    @property
    def next(self) -> Token:
        return self._tokens[self._place]

    def take(self) -> Token:
        """The next token, and one further; `end` stays."""
        token = self.next
        if token.kind != "end":
            self._place += 1
        return token

    def sign(self, *signs: str) -> str | None:
        """Take the next token if it is one of these signs."""
        if self.next.kind == "sign" and self.next.text in signs:
            return self.take().text
        return None

    def word(self, *words: str) -> str | None:
        """Take the next token if it is one of these keywords; in lower case."""
        return self.take().text.lower() if self.next.is_word(*words) else None

    def need_sign(self, sign: str) -> None:
        if self.sign(sign) is None:
            raise self.unexpected(f"{sign!r}")

    def need_word(self, word: str) -> None:
        if self.word(word) is None:
            raise self.unexpected(word.upper())

    def unexpected(self, wanted: str) -> HubError:
        found = self.next
        shown = "its end" if found.kind == "end" else f"{found.text[:40]!r} at character {found.place + 1}"
        return refused(f"{wanted} is expected, not {shown}.")


def unquote(text: str) -> str:
    """The content of a quoted string; a backslash stands before what is meant as it is."""
    return re.sub(r"\\(.)", r"\1", text[1:-1])
