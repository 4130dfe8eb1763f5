"""Raw members of an answer → a draft: types of the mode, lists of clean lines, indexes and ids that exist."""

import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from onlooker.domain.models import Draft, ObservationKind
from onlooker.domain.modes import plain_name
from onlooker.providers.prompt import SUMMARY_MEMBERS, Prompt

TITLE_LENGTH = 200
SUBTITLE_LENGTH = 400
NARRATIVE_LENGTH = 6_000
LINE_LENGTH = 1_000
MOST_FACTS = 20
MOST_CONCEPTS = 10
MOST_FILES = 50

SKIP_TYPES = frozenset({"skip", "none", "no_observation", "nothing"})
"""Types by which a model says that there is nothing to note."""

ALIASES: Mapping[str, str] = {
    "kind": "type", "category": "type", "observation_type": "type",
    "name": "title", "headline": "title",
    "sub_title": "subtitle",
    "text": "narrative", "body": "narrative", "content": "narrative", "description": "narrative",
    "summary": "narrative",
    "fact": "facts", "key_facts": "facts", "concept": "concepts", "tags": "concepts",
    "filesread": "files_read", "read_files": "files_read",
    "filesmodified": "files_modified", "modified_files": "files_modified", "files_edited": "files_modified",
    "files_changed": "files_modified",
    "event": "events", "sources": "events", "source_events": "events", "event_indexes": "events", "indexes": "events",
    "supersede": "supersedes", "replaces": "supersedes",
    "nextsteps": "next_steps", "next": "next_steps",
}  # fmt: skip
"""Other names that models give the members; read in lower case, with `_` between words."""

MEMBERS = frozenset(
    {"type", "title", "subtitle", "narrative", "facts", "concepts", "files_read", "files_modified", "events"}
    | {"supersedes", *SUMMARY_MEMBERS}
)

SAYS_NOTHING = frozenset({"none", "null", "nil", "n/a", "undefined", "untitled"})
"""What is written where a text had to be and there was none."""

PROSE_BYTES = 12
"""One word below this length is no statement; in scripts without blanks four signs may be one."""

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_SIGN = re.compile(r"[^\W_]")
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s+")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n")
_INTEGER = re.compile(r"(?<![\d.-])(\d{1,6})(?:\.0+)?(?:\s?[-–]\s?(\d{1,6}))?(?![\d.])")
_NAMES_WITHOUT_BLANKS = re.compile(r"[^\s,;]+(?:\s*[,;]\s*[^\s,;]+)+")


def member_of(name: str) -> str:
    """The member that a name means: itself where it is unknown."""
    plain = plain_name(name)
    return ALIASES.get(plain, plain)


def is_skip(word: Any) -> bool:
    """Whether what stands for a type says that there is nothing to note."""
    return isinstance(word, str) and plain_name(word) in SKIP_TYPES


def draft_of(note: Mapping[str, Any], prompt: Prompt) -> Draft | None:
    """The draft of a raw observation; None for one that says nothing, or that says it is none.

    `note` has members by their own names. Unknown types become the mode's neutral one; indexes and ids that name
    nothing are dropped.
    """
    given = note.get("type")
    if is_skip(given):
        return None
    kind = prompt.mode.type_of(text_of(given[0] if isinstance(given, list) and given else given))
    title, subtitle = text_of(note.get("title")), text_of(note.get("subtitle"))
    narrative = block_of(note.get("narrative"))
    facts = lines_of(note.get("facts"), MOST_FACTS)
    concepts = tuple(dict.fromkeys(line.lower() for line in names_of(note.get("concepts"), MOST_CONCEPTS)))
    title = title or first_sentence(narrative) or (facts[0] if facts else ", ".join(concepts))
    if not title:
        return None
    if kind.name != kind.kind:
        concepts = (kind.name, *(concept for concept in concepts if concept != kind.name))
    return Draft(
        kind.kind,
        clipped(title, TITLE_LENGTH),
        subtitle=clipped(subtitle, SUBTITLE_LENGTH),
        narrative=clipped(narrative, NARRATIVE_LENGTH),
        facts=facts,
        concepts=concepts,
        files_read=names_of(note.get("files_read"), MOST_FILES),
        files_modified=names_of(note.get("files_modified"), MOST_FILES),
        sources=tuple(index for index in _indexes(note.get("events")) if index < prompt.count),
        supersedes=tuple(prompt.refs[ref] for ref in _refs(note.get("supersedes")) if ref in prompt.refs),
        own_type=kind.name if kind.name != kind.kind else "",
    )


def summary_draft(summary: Mapping[str, Any]) -> Draft | None:
    """The draft of a raw summary; None for an empty one. Its parts are facts that begin with the part's name."""
    parts = {name: text_of(summary.get(name)) for name in SUMMARY_MEMBERS}
    parts["completed"] = parts["completed"] or text_of(summary.get("narrative"))
    if not any(parts.values()):
        return None
    said = [parts["request"], parts["completed"], parts["learned"], *parts.values()]
    title = first_sentence(next(part for part in said if part))
    facts = tuple(
        clipped(f"{name}: {part}", LINE_LENGTH) for name, part in parts.items() if part and name != "completed"
    )
    return Draft(
        ObservationKind.SUMMARY,
        clipped(title, TITLE_LENGTH),
        narrative=clipped(parts["completed"], NARRATIVE_LENGTH),
        facts=facts,
    )


def text_of(value: Any) -> str:
    """A member as one line; empty for what is no text."""
    return " ".join(block_of(value).split())


def block_of(value: Any) -> str:
    """A member as a text of its own lines; a list of texts is put together, `&lt;` and its like are decoded.

    Empty for what is no text, for one without a letter or a digit, and for a word that stands where there is none.
    """
    if isinstance(value, str):
        text = _decoded(value).strip()
        return text if _SIGN.search(text) and text.lower() not in SAYS_NOTHING else ""
    if isinstance(value, list):
        return "\n".join(part for each in value if (part := block_of(each)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return ""


def lines_of(value: Any, most: int) -> tuple[str, ...]:
    """A member as a list of lines, each once: items of a list, or the lines of a text without their bullets.

    An object in place of an item is its first text: `{"path": "a.py"}`.
    """
    alone = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(alone, str) and alone.lstrip().startswith("["):
        value = _list_in(alone)
    items: Iterable[Any] = value if isinstance(value, list) else str(value).splitlines() if value else ()
    if isinstance(value, Mapping):
        items = value.values()
    lines = (_BULLET.sub("", text_of(_first_text(item))) for item in items)
    return tuple(dict.fromkeys(clipped(line, LINE_LENGTH) for line in lines if line))[:most]


def names_of(value: Any, most: int) -> tuple[str, ...]:
    """A member as a list of names, which may stand in one line with commas between them."""
    alone = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(alone, str) and _NAMES_WITHOUT_BLANKS.fullmatch(alone.strip()):
        value = re.split(r"\s*[,;]\s*", alone.strip())
    return lines_of(value, most)


def is_prose(text: str) -> bool:
    """Whether a text without members says anything."""
    text = text.strip()
    return bool(_SIGN.search(text)) and (len(text.encode(errors="replace")) >= PROSE_BYTES or len(text.split()) > 1)


def _list_in(text: str) -> Any:
    """The list in a text that is one in JSON, else the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list) else text


def _first_text(item: Any) -> Any:
    if isinstance(item, Mapping):
        return next((text for text in item.values() if isinstance(text, str) and text_of(text)), None)
    return item


def first_sentence(text: str) -> str:
    """The first sentence of a text, without a heading's marks."""
    return " ".join(_SENTENCE.split(text.strip(), maxsplit=1)[0].strip("#*` \t").split())


def clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _decoded(text: str) -> str:
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text) if "&" in text else text


def _indexes(value: Any) -> tuple[int, ...]:
    """Indexes in any spelling: numbers, texts with a number, a text with several."""
    return tuple(dict.fromkeys(index for each in _flat(value) for index in _numbers(each)))


def _numbers(value: Any) -> list[int]:
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value] if value >= 0 else []
    if isinstance(value, float) and value.is_integer():
        return _numbers(int(value))
    if not isinstance(value, str):
        return []
    spans = ((int(first), int(last or first)) for first, last in _INTEGER.findall(value))
    return [number for first, last in spans for number in range(first, min(last, first + MOST_FILES) + 1)]


def _refs(value: Any) -> tuple[str, ...]:
    words = (word for each in _flat(value) if isinstance(each, str) for word in re.split(r"[\s,;]+", each))
    return tuple(dict.fromkeys(word.strip("[]").lower() for word in words))


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [leaf for each in value[:MOST_FILES] for leaf in (each if isinstance(each, list) else [each])]
    return [] if value is None else [value]
