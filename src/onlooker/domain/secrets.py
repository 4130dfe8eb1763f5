"""Secrets in texts, replaced by a marker that says what kind stood there, before anything is stored."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from onlooker.domain.json_text import map_texts, plain
from onlooker.domain.secret_names import is_secret_member, name_finders, secret_kind_of
from onlooker.domain.secret_patterns import FINDERS, LEAD, LONG_WORD, Finder, Span

_ALL: tuple[Finder, ...] = (*FINDERS, *name_finders())
_IN_WORDS = tuple((f.literal, f.hint, f) for f in _ALL if f.in_words)

_RARE = (
    r"k(?:ey|(?<=tok)en|(?<=cook)ie)",
    r"auth(?:orization|(?<=_auth))",
    r"p(?:ass|wd)",
    r"c(?:url |(?<=sec)ret)",
    r"b(?:earer|y(?<=identified by))",
    r"hooks",
)
"""What literals have in common, each beginning with a letter that texts have little of: looking for it costs half a
microsecond, whatever it stands for."""

Search = Callable[[str], object]
Gated = tuple[Search, Sequence[tuple[Search, Finder]]]
"""Finders, and a search that finds something wherever one of them can."""


def _gated(finders: Iterable[Finder]) -> Sequence[Gated]:
    """The finders under the searches that find their literals; one without such a search is under its own hint."""
    under: dict[Search, list[tuple[Search, Finder]]] = {}
    rare = [re.compile(pattern).search for pattern in _RARE]
    for finder in finders:
        gate = next((search for search in rare if search(finder.literal)), None)
        if gate is None:
            under[finder.hint] = [(bool, finder)]
        else:
            under.setdefault(gate, []).append((finder.hint, finder))
    return tuple(under.items())


_ANYWHERE = _gated(f for f in _ALL if not f.in_lower and not f.in_words)
_IN_LOWER = _gated(f for f in _ALL if f.in_lower)

_WORD_CHARACTERS = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-.")
_SHAPES = bytes(ord("a") if byte in _WORD_CHARACTERS else ord(" ") for byte in range(256))
"""Makes every character of a word an `a`, so that a long word is found by one plain search."""
_LONG = b"a" * LONG_WORD

_SHORTEST = 7
"""Characters of the shortest text that can hold a secret with its name (`pwd=x1y`)."""


def marker(kind: str) -> str:
    return f"[redacted:{kind}]"


def redact(text: str) -> str:
    """The text with every secret in it replaced by `[redacted:KIND]`; a marker stays as it is when done again."""
    ascii_text = plain(text)
    return redacted(text, finders_for(ascii_text, ascii_text.lower()))


def redact_deep(value: Any) -> Any:
    """A JSON value with every text redacted, and every string whose name says that it is a secret."""
    return map_texts(value, redact, redact_member)


def redact_member(name: str, value: Any) -> Any:
    """The marker for the member of an object whose name says that it is a secret, else the value as it is."""
    kind = secret_kind_of(name) if isinstance(value, str) else None
    return marker(kind) if kind and is_secret_member(name, kind, value) else value


def finders_for(ascii_text: str, lower: str) -> Sequence[Finder]:
    """The finders that can find anything in a text made plain, or in the payload whose JSON it is."""
    found = _that_may_find(ascii_text, _ANYWHERE)
    words = _long_words(ascii_text)
    if words:
        found += [finder for literal, hint, finder in _IN_WORDS if literal in words and hint(words)]
    return found + _that_may_find(lower, _IN_LOWER)


def _that_may_find(text: str, gated: Sequence[Gated]) -> list[Finder]:
    return [finder for gate, finders in gated if gate(text) for hint, finder in finders if hint(text)]


def _long_words(ascii_text: str) -> str:
    """The long words of a text, with what stands right before each, one a line."""
    shape = ascii_text.encode("ascii").translate(_SHAPES)
    words: list[str] = []
    start = shape.find(_LONG)
    while start >= 0:
        end = shape.find(b" ", start)
        if end < 0:
            end = len(shape)
        words.append(ascii_text[max(0, start - LEAD) : end])
        start = shape.find(_LONG, end)
    return "\n".join(words)


def redacted(text: str, finders: Sequence[Finder]) -> str:
    """The text with what these finders find in it replaced.

    Of two that overlap the one that begins first counts, and takes what the other has beyond its end.
    """
    if not finders or len(text) < _SHORTEST:
        return text
    ascii_text = plain(text)
    lower = ascii_text.lower()
    spans = [
        span
        for finder in finders
        if finder.hint(lower if finder.in_lower else ascii_text)
        for span in finder.find(ascii_text, lower)
    ]
    if not spans:
        return text
    kept: list[str] = []
    position = 0
    for start, end, kind in _apart(spans):
        kept += (text[position:start], marker(kind))
        position = end
    kept.append(text[position:])
    return "".join(kept)


def _apart(spans: list[Span]) -> list[Span]:
    """The spans in order, those that overlap made one."""
    apart: list[Span] = []
    for start, end, kind in sorted(spans, key=lambda span: (span[0], -span[1])):
        if apart and start < apart[-1][1]:
            first, last_end, first_kind = apart[-1]
            apart[-1] = (first, max(end, last_end), first_kind)
        else:
            apart.append((start, end, kind))
    return apart
