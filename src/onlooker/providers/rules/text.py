"""Short texts out of long ones. Everything here is linear in what it looks at, and looks at a bounded part."""

import re
from collections.abc import Iterable, Iterator

TITLE_LENGTH = 100
FACT_LENGTH = 200
NARRATIVE_LENGTH = 400
MAX_FACTS = 6

_LOOKED_AT = 20_000
"""Characters of a text's beginning and of its end that are read."""

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])")
_ABBREVIATED = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|no|fig)|\b[A-Z])\.$", re.IGNORECASE)
_MARKUP = re.compile(r"^\s*(?:#{1,6}\s+|[-*+]\s+|\d{1,3}[.)]\s+|>\s+)|\*\*|__")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def printable(text: str) -> str:
    """The text without what a database refuses or a terminal obeys: control characters and halves of pairs."""
    return _UNPRINTABLE.sub(" ", text)


def clip(text: str, length: int) -> str:
    """The text on one line, at most `length` characters; what was cut ends in an ellipsis, between words if it can."""
    line = " ".join(printable(text[: 4 * length + 200]).split())
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    space = cut.rfind(" ")
    return (cut[:space] if space > length * 2 // 3 else cut).rstrip(" ,;:") + "…"


def lines_of(text: str) -> list[str]:
    """The lines of a text's beginning and end, without terminal colours."""
    if len(text) > 2 * _LOOKED_AT:
        text = f"{text[:_LOOKED_AT]}\n{text[-_LOOKED_AT:]}"
    return [line.rstrip() for line in _ANSI.sub("", text).splitlines()]


def sentences(text: str) -> Iterator[str]:
    """The sentences of prose, markup taken off, code blocks and tables left out."""
    fenced = False
    for paragraph in _paragraphs(text[:_LOOKED_AT]):
        if paragraph.startswith("```"):
            fenced = not fenced
        elif not fenced and not paragraph.startswith("|"):
            yield from _split(paragraph)


def first_sentences(text: str, length: int) -> str:
    """As many whole sentences from the start as fit; the first one is cut where it alone does not."""
    taken: list[str] = []
    room = length
    for sentence in sentences(text):
        if taken and len(sentence) + 1 > room:
            break
        taken.append(clip(sentence, length))
        room -= len(sentence) + 1
    return " ".join(taken)


def named(names: Iterable[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    known = list(dict.fromkeys(names))
    if len(known) > most + 1:
        return f"{', '.join(known[:most])} and {len(known) - most} more"
    return ", ".join(known)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def facts(*candidates: str) -> tuple[str, ...]:
    """What is not empty and not said twice, each on one short line."""
    clipped = (clip(fact, FACT_LENGTH) for fact in candidates if fact)
    return tuple(dict.fromkeys(clipped))[:MAX_FACTS]


def _paragraphs(text: str) -> Iterator[str]:
    """Lines put together to paragraphs; a list item, a heading or a fence stands alone."""
    current = ""
    for line in text.splitlines():
        bare = line.strip()
        alone = bare.startswith(("```", "|")) or _MARKUP.match(bare) is not None
        if current and (not bare or alone):
            yield current
            current = ""
        if bare.startswith(("```", "|")):
            yield bare
        elif bare:
            current = f"{current} {bare}" if current else bare
    if current:
        yield current


def _split(paragraph: str) -> Iterator[str]:
    held = ""
    for part in _SENTENCE_END.split(_MARKUP.sub("", paragraph).strip()):
        held = f"{held} {part}".strip() if held else part
        if held and not _ABBREVIATED.search(held[-8:]):
            yield held
            held = ""
    if held:
        yield held
