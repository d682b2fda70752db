"""The grammar of xl.cfg(5): text to settings, unchecked.

``KEY = VALUE`` pairs separated by newlines or semicolons, ``KEY += VALUE`` to add to a string or list, ``#`` comments; a
value is a quoted string, a number (decimal, 0octal, 0xhex) or a list, whose items may be on lines of their own.  As in
xl a number is text until a key says what it is: ``name = 007`` is the name 007, and ``memory = "256"`` a number.
"""

from __future__ import annotations

import re
from typing import Any

from xenfast.errors import XenfastError

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\\\n)
      | (?P<comment>\#[^\n]*)
      | (?P<end>[\n;])
      | (?P<number>0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)(?![A-Za-z0-9_.])
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>\+=|[=\[\],])""",
    re.X,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}

Value = str | int | list


class Number(int):
    """A number, and how it was written."""

    text: str

    def __new__(cls, text: str) -> Number:
        number = super().__new__(cls, number_value(text))
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


def parse_settings(text: str, where: str = "config") -> dict[str, Value]:
    """The KEY = VALUE pairs of a configuration, unchecked."""
    return _Parser(text, where).settings()


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.tokens = list(self._tokens(text))
        self.pos = 0

    def _tokens(self, text: str) -> Any:
        pos, line = 0, 1
        while pos < len(text):
            match = _TOKEN.match(text, pos)
            if not match:
                raise self._error(line, f"cannot make sense of {text[pos:].splitlines()[0]!r}")
            kind = match.lastgroup
            if kind not in ("space", "comment"):
                yield kind, match.group(), line
            line += match.group().count("\n")
            pos = match.end()
        yield "end", "", line

    def _error(self, line: int, what: str) -> XenfastError:
        return XenfastError(f"{self.where}, line {line}: {what}")

    def _next(self) -> tuple[str, str, int]:
        token = self.tokens[min(self.pos, len(self.tokens) - 1)]
        self.pos += 1
        return token

    def settings(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while self.pos < len(self.tokens):
            kind, key, line = self._next()
            if kind == "end":
                continue
            if kind != "name":
                raise self._error(line, f"expected a key, found {key!r}")
            _, mark, _ = self._next()
            if mark not in ("=", "+="):
                raise self._error(line, f"expected '=' after {key!r}")
            value = self._value(key)
            kind, text, _ = self._next()
            if kind != "end":
                raise self._error(line, f"unexpected {text!r} after the value of {key!r}")
            if mark == "+=" and key in found:
                value = self._added(key, found[key], value, line)
            found[key] = value
        return found

    def _added(self, key: str, old: Value, value: Value, line: int) -> Value:
        if isinstance(old, list):
            return old + (value if isinstance(value, list) else [value])
        if isinstance(old, str) and isinstance(value, str):
            return old + value
        raise self._error(line, f"cannot add to {key!r}: it is a number")

    def _value(self, key: str) -> Value:
        kind, text, line = self._next()
        if kind == "string":
            return _dequote(text)
        if kind == "number":
            return Number(text)
        if text == "[":
            return self._list(key)
        raise self._error(line, f"the value of {key!r} is neither a string in quotes, a number nor a list")

    def _list(self, key: str) -> list:
        items: list[Value] = []
        while True:
            self._skip_newlines()
            if self.tokens[min(self.pos, len(self.tokens) - 1)][1] == "]":
                self.pos += 1
                return items
            items.append(self._value(key))
            self._skip_newlines()
            _, text, line = self._next()
            if text == "]":
                return items
            if text != ",":
                what = f"unexpected {text!r} in the list of {key!r}" if text else f"the list of {key!r} is not closed"
                raise self._error(line, what)

    def _skip_newlines(self) -> None:
        while self.pos < len(self.tokens) and self.tokens[self.pos][1] == "\n":
            self.pos += 1


def _dequote(text: str) -> str:
    def unescape(match: re.Match[str]) -> str:
        escape = match.group(1)
        if escape[0] == "x" or escape[0] in "01234567":
            return chr(int(escape.lstrip("x"), 16 if escape[0] == "x" else 8))
        return _ESCAPES.get(escape, escape)

    return re.sub(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", unescape, text[1:-1])


def number_value(text: str) -> int:
    """As strtol(text, NULL, 0) reads it; ValueError when it is not all of a number."""
    text = text.strip()
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if digits[:2] in ("0x", "0X"):
        return sign * int(digits, 16)
    return sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)
