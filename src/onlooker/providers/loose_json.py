"""JSON as models write it.

With commas too many, single or curly quotes, bare names, comments, Python's words, escapes that there are not, quotes
inside texts, and without its end.

Strict JSON is read by the standard library, which is asked first. Nothing here guesses at what is missing: a list
keeps the members that are whole, and an object without its end is none.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

MOST_NESTED = 60

_BLANK = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/|#[^\n]*)*", re.DOTALL)
_CLOSERS: Mapping[str, str] = {'"': '"', "'": "'", "“": "”", "”": "”", "„": "“”"}
_SIGNS = {opener: re.compile(rf"\\.|[{closers}]", re.DOTALL) for opener, closers in _CLOSERS.items()}
_ENDS_TEXT = re.compile(r"\s*(?:[,:}\]]|//|/\*|$)")
_NAME = re.compile(r"[A-Za-z_$][\w$-]*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS: Mapping[str, Any] = {
    "true": True, "false": False, "null": None, "none": None, "undefined": None, "nan": None,
}  # fmt: skip
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"', "'": "'", "\n": ""}


def decode(text: str, start: int, keeps: Callable[[str], bool]) -> tuple[Any, int, bool]:
    """The object or list that begins at a place, where it ends, and whether the text ended before it.

    Of an object that has no end only a last member is kept whose name `keeps` takes: one in which a list may stand.
    Raises ValueError for what is no JSON in any spelling.
    """
    reader = _Reader(text, start, keeps)
    value = reader.value(0)
    return value, reader.at, reader.is_cut


class _Reader:
    """Reads on from `at`. Once `is_cut`, everything returns what it has."""

    def __init__(self, text: str, at: int, keeps: Callable[[str], bool]) -> None:
        self.text = text
        self.at = at
        self.is_cut = False
        self._keeps = keeps

    def value(self, depth: int) -> Any:
        sign = self._next()
        if depth > MOST_NESTED:
            raise ValueError("nested too deeply")
        if sign == "{":
            return self._object(depth)
        if sign == "[":
            return self._list(depth)
        if sign in _CLOSERS:
            return self._string(sign)
        return self._word()

    def _object(self, depth: int) -> dict[str, Any]:
        self.at += 1
        members: dict[str, Any] = {}
        while (sign := self._next()) != "}":
            if not sign:
                return {}
            name = self._string(sign) if sign in _CLOSERS else self._match(_NAME)
            if self._next() == ":":
                self.at += 1
            elif not self.is_cut:
                raise ValueError("a name without a value")
            value = None if self.is_cut else self.value(depth + 1)
            if self.is_cut:
                return {name: value} if self._keeps(name) else {}
            members.setdefault(name, value)
            self._separate("}")
            if self.is_cut and isinstance(value, list) and self._keeps(name):
                return {name: value}
        self.at += 1
        return members

    def _list(self, depth: int) -> list[Any]:
        self.at += 1
        items: list[Any] = []
        while (sign := self._next()) != "]":
            if not sign:
                return items
            item = self.value(depth + 1)
            if self.is_cut:
                return items
            items.append(item)
            self._separate("]")
        self.at += 1
        return items

    def _separate(self, closer: str) -> None:
        sign = self._next()
        if sign == ",":
            self.at += 1
        elif sign and sign != closer:
            raise ValueError("neither a comma nor an end")

    def _string(self, opener: str) -> str:
        """A text; it ends at a quote behind which JSON goes on, so that one may quote something."""
        start = self.at + 1
        for sign in _SIGNS[opener].finditer(self.text, start):
            if sign[0][0] != "\\" and _ENDS_TEXT.match(self.text, sign.end()):
                self.at = sign.end()
                return _unescaped(self.text[start : sign.start()])
        self.at, self.is_cut = len(self.text), True
        return ""

    def _word(self) -> Any:
        if found := _NUMBER.match(self.text, self.at):
            self.at = found.end()
            return json.loads(found[0]) if not re.match(r"-?0\d", found[0]) else found[0]
        word = self._match(_NAME).lower()
        if word not in _WORDS:
            raise ValueError("a text without quotes")
        return _WORDS[word]

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError("no JSON")
        self.at = found.end()
        return found[0]

    def _next(self) -> str:
        """The next sign that counts; empty at the text's end."""
        found = _BLANK.match(self.text, self.at)
        self.at = found.end() if found else self.at
        if self.at >= len(self.text):
            self.is_cut = True
            return ""
        return self.text[self.at]


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    # A sign beyond the first 65,536 is written as two escapes, which are one sign again only together.
    return _ESCAPE.sub(_sign_of, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _sign_of(escape: re.Match[str]) -> str:
    """What an escape stands for; one that there is not stands for itself."""
    if len(escape[1]) > 1:
        return chr(int(escape[1][1:], 16))
    return _ESCAPES.get(escape[1], escape[0])
