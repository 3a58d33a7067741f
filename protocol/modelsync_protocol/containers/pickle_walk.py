"""Walks a pickle's opcodes with a stack of stand-ins: nothing is imported, called or executed. No I/O here.

Opcodes: CPython's Lib/pickletools.py. A stand-in is an int, a str, a tuple or a dict (of what matters here), a Run of
the pickle's bytes, a Name (module and attribute), a Made (what calling something would give), or None for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modelsync_protocol.errors import FormatError

_MAX_STEPS = 5_000_000
_MAX_TEXT_BYTES = 1024
_MAX_MEMO = 1 << 20
_LINE_BYTES = 256
"""Read at a time in search of a line's end."""

_NOTHING = b"(.012NQRabd}el]ost)u\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"
_FIXED = {"J": 4, "K": 1, "M": 2, "h": 1, "j": 4, "q": 1, "r": 4, "G": 8, "\x80": 1, "\x82": 1, "\x83": 2}
_FIXED |= {"\x84": 4, "\x95": 8}
_COUNTED = {"T": 4, "U": 1, "X": 4, "\x8a": 1, "\x8b": 4, "B": 4, "C": 1, "\x8c": 1, "\x8d": 8, "\x8e": 8, "\x96": 8}
_LINES = {"F": 1, "I": 1, "L": 1, "P": 1, "S": 1, "V": 1, "g": 1, "p": 1, "c": 2, "i": 2}
_FIXED_BY_CODE = {ord(code): width for code, width in _FIXED.items()}
_COUNTED_BY_CODE = {ord(code): width for code, width in _COUNTED.items()}
_LINES_BY_CODE = {ord(code): count for code, count in _LINES.items()}


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of the pickle: where they begin, and how many."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Name:
    """Something that would be imported."""

    module: str
    name: str


@dataclass(slots=True, eq=False)
class Made:
    """What calling `maker` with `arguments` would give, and the state that is set on it."""

    maker: Any
    arguments: tuple[Any, ...]
    state: Any = None


class _Mark:
    """A mark on the stack."""


_MARK = _Mark()


@dataclass(slots=True)
class Walk:
    """One walk over `data`. `on_state(made, position)` sees each finished object; it answers where to go on reading.

    `on_item(key, value)` sees each pair that a dict gets. `on_name` sees each import; None if it isn't known what of.
    """

    data: memoryview
    on_state: Callable[[Made, int], int] = lambda made, position: position
    on_item: Callable[[Any, Any], None] = lambda key, value: None
    on_call: Callable[[Made], None] = lambda made: None
    on_name: Callable[[Name | None], None] = lambda name: None
    _stack: list[Any] = field(default_factory=list)
    _memo: dict[int, Any] = field(default_factory=dict)
    _position: int = 0

    def run(self) -> int:
        """Walk to STOP and return the position after it; FormatError if the pickle is malformed or too long."""
        for _ in range(_MAX_STEPS):
            code = self._take(1)[0]
            if code == 0x2E:
                return self._position
            self._step(code, *self._argument(code))
        raise FormatError("the pickle has too many opcodes.")

    def _take(self, count: int) -> memoryview:
        if count > len(self.data) - self._position:
            raise FormatError("the pickle is cut short.")
        view = self.data[self._position : self._position + count]
        self._position += count
        return view

    def _argument(self, code: int) -> tuple[int, Run]:
        """(the integer, the bytes) that follow an opcode."""
        if code in _NOTHING:
            return 0, Run(self._position, 0)
        if width := _FIXED_BY_CODE.get(code):
            start = self._position
            return int.from_bytes(self._take(width), "little", signed=code == 0x4A), Run(start, width)
        if width := _COUNTED_BY_CODE.get(code):
            length = int.from_bytes(self._take(width), "little")
            run = Run(self._position, length)
            self._take(length)
            return 0, run
        if count := _LINES_BY_CODE.get(code):
            start = self._position
            for _ in range(count):
                self._line()
            return 0, Run(start, self._position - start)
        raise FormatError(f"the pickle holds the opcode {code}, which is not known here.")

    def _line(self) -> None:
        while True:
            size = min(_LINE_BYTES, max(1, len(self.data) - self._position))
            end = bytes(self._take(size)).find(b"\n")
            if end >= 0:
                self._position += end + 1 - size
                return

    def _text(self, run: Run) -> str:
        return bytes(self.data[run.offset : run.offset + min(run.length, _MAX_TEXT_BYTES)]).decode(errors="replace")

    def _pop(self) -> Any:
        if not self._stack:
            raise FormatError("the pickle takes from an empty stack.")
        value = self._stack.pop()
        if value is _MARK:
            raise FormatError("the pickle takes a mark for a value.")
        return value

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while self._stack:
            value = self._stack.pop()
            if value is _MARK:
                items.reverse()
                return items
            items.append(value)
        raise FormatError("the pickle lacks a mark.")

    def _step(self, code: int, number: int, run: Run) -> None:
        push = self._stack.append
        match chr(code):
            case "(":
                push(_MARK)
            case "0":
                if not self._stack:
                    raise FormatError("the pickle takes from an empty stack.")
                self._stack.pop()
            case "1":
                self._to_mark()
            case "2":
                value = self._pop()
                self._stack += [value, value]
            case "J" | "K" | "M":
                push(number)
            case "\x8a":
                push(int.from_bytes(self.data[run.offset : run.offset + min(run.length, 8)], "little", signed=True))
            case "I" | "L":
                text = self._text(run).strip().rstrip("L")
                push(int(text) if len(text) < 19 and text.lstrip("-").isdecimal() and text.isascii() else None)
            case "B" | "C" | "\x8e" | "\x96" | "T" | "U":
                push(run)
            case "X" | "\x8c" | "\x8d" | "V":
                push(self._text(run).rstrip("\n") if chr(code) == "V" else self._text(run))
            case "S":
                push(self._text(run).strip().strip("'\""))
            case "F" | "G" | "N" | "\x88" | "\x89" | "\x8b" | "\x97" | "]" | "\x8f":
                push(None)
            case "}":
                push({})
            case ")":
                push(())
            case "t":
                push(tuple(self._to_mark()))
            case "\x85" | "\x86" | "\x87":
                items = [self._pop() for _ in range(code - 0x84)]
                push(tuple(reversed(items)))
            case "d":
                items = self._to_mark()
                push(self._fill({}, items))
            case "l" | "\x91":
                self._to_mark()
                push(None)
            case "a":
                self._pop()
            case "e" | "\x90":
                self._to_mark()
            case "s":
                value, key = self._pop(), self._pop()
                self._fill(self._stack[-1] if self._stack else None, [key, value])
            case "u":
                items = self._to_mark()
                self._fill(self._stack[-1] if self._stack else None, items)
            case "q" | "r":
                self._keep(number)
            case "p":
                self._keep(self._index(run))
            case "\x94":
                self._keep(len(self._memo))
            case "h" | "j":
                push(self._memo.get(number))
            case "g":
                push(self._memo.get(self._index(run)))
            case "c" | "i":
                module, _, name = self._text(run).rstrip("\n").partition("\n")
                found = Name(module, name)
                self.on_name(found)
                push(found if code == 0x63 else Made(found, tuple(self._to_mark())))
            case "\x93":
                name, module = self._pop(), self._pop()
                known = Name(module, name) if isinstance(module, str) and isinstance(name, str) else None
                self.on_name(known)
                push(known)
            case "P":
                push(Made("persistent", (self._text(run).strip(),)))
            case "Q":
                push(Made("persistent", (self._pop(),)))
            case "R" | "\x81":
                arguments, maker = self._pop(), self._pop()
                self._call(maker, arguments)
            case "\x92":
                self._pop()
                arguments, maker = self._pop(), self._pop()
                self._call(maker, arguments)
            case "o":
                items = self._to_mark()
                self._call(items[0] if items else None, tuple(items[1:]))
            case "b":
                state = self._pop()
                made = self._stack[-1] if self._stack else None
                if isinstance(made, Made):
                    made.state = state
                    self._position = self.on_state(made, self._position)
            case "\x82" | "\x83" | "\x84":  # from the reader's registry of extensions
                self.on_name(None)
                push(None)
            case _:
                pass

    def _call(self, maker: Any, arguments: Any) -> None:
        made = Made(maker, arguments if isinstance(arguments, tuple) else ())
        self.on_call(made)
        self._stack.append(made)

    def _keep(self, index: int) -> None:
        if len(self._memo) >= _MAX_MEMO:
            raise FormatError("the pickle remembers too much.")
        self._memo[index] = self._stack[-1] if self._stack and self._stack[-1] is not _MARK else None

    def _index(self, run: Run) -> int:
        text = self._text(run).strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise FormatError("the pickle has a memo entry without a number.")
        return int(text)

    def _fill(self, target: Any, items: list[Any]) -> Any:
        for key, value in zip(items[::2], items[1::2], strict=False):
            self.on_item(key, value)
            if isinstance(target, dict) and isinstance(key, str):
                target[key] = value
        return target
