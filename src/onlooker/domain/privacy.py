"""What must not be stored: parts marked private, and context that was put into a prompt and is no part of it."""

import re
from typing import Any

from onlooker.domain.json_text import map_texts, plain

_NESTING = ("private", "onlooker-context", "claude-mem-context")
"""Blocks that nest and that hide everything to the end of their text when they are not closed."""

_REMINDER = "system-reminder"
"""A block that its client puts into tool results; it does not nest, and an unclosed one is only a word in a text."""

_OPENERS = ("<", "</", "<\\/", "lt;", "lt;/", "u003c", "u003c/")

_RARE = (re.compile("v(?<=priv)ate"), re.compile("-(?:context|mem-context|reminder)"))
"""What all of the names hold, beginning with letters that texts have little of: looked for first, for speed."""

_PRESENT = tuple(
    re.compile(name + "(?:" + "|".join(f"(?<={re.escape(opener + name)})" for opener in _OPENERS) + ")")
    for name in (*_NESTING, _REMINDER)
)

_TAG = re.compile(
    r"[<&\\](?:(?<=<)|(?<=&)lt;|(?<=\\)u003c)(?P<close>\\?/)?"
    rf"(?P<name>{'|'.join((*_NESTING, _REMINDER))})(?=[\s/>&\\<]|\Z)[^<>]*?(?P<end>/?(?:>|&gt;|\\u003e)|(?=<)|\Z)"
)
"""On lower case. Also as HTML and as Go's JSON write it; a tag that lacks its end counts, since it was meant as one."""


def has_private(lower: str) -> bool:
    """Whether there can be anything to strip in a text given in lower case; JSON text will do."""
    if not (_RARE[0].search(lower) or _RARE[1].search(lower)):
        return False
    return any(pattern.search(lower) for pattern in _PRESENT)


def strip_private(text: str) -> str:
    """The text without its private and injected blocks; they leave nothing behind.

    Tags count in any case and with attributes, blocks nest, an unclosed block reaches to the end of the text,
    and a closing tag with no opening one is removed alone. Linear in the length of the text.
    """
    lower = plain(text).lower()
    return _stripped(text, lower) if has_private(lower) else text


def strip_private_deep(value: Any) -> Any:
    """A JSON value with every text in it stripped, keys too; a block in one text touches no other text."""
    return map_texts(value, strip_private)


def _stripped(text: str, lower: str) -> str:
    kept: list[str] = []
    position = depth = 0
    hidden_by = ""
    last_reminder_end = max((lower.rfind(opener + _REMINDER) for opener in _OPENERS if "/" in opener), default=-1)
    for tag in _TAG.finditer(lower):
        name, closes = tag["name"], tag["close"] is not None
        alone = tag["end"].startswith("/")
        if hidden_by:
            if name == hidden_by and not alone:
                depth = _depth_after(name, depth, closes=closes)
            if depth == 0:
                hidden_by, position = "", tag.end()
            continue
        kept.append(text[position : tag.start()])
        position = tag.end()
        if not closes and not alone and (name != _REMINDER or tag.end() <= last_reminder_end):
            hidden_by, depth = name, 1
    if not hidden_by:
        kept.append(text[position:])
    return "".join(kept)


def _depth_after(name: str, depth: int, *, closes: bool) -> int:
    """How deep in blocks of one name a text is behind one more of its tags."""
    if name == _REMINDER:
        return 0 if closes else depth
    return depth - 1 if closes else depth + 1
