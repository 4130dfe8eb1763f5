"""Raw members of an answer → a draft: types of the mode, lists of clean lines, indexes and ids that exist."""

import html
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

_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#39|#x27);")
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s+")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n")
_INTEGER = re.compile(r"\d{1,9}")


def member_of(name: str) -> str:
    """The member that a name means: itself where it is unknown."""
    plain = plain_name(name)
    return ALIASES.get(plain, plain)


def draft_of(note: Mapping[str, Any], prompt: Prompt) -> Draft | None:
    """The draft of a raw observation; None for one that says nothing, or that says it is none.

    `note` has members by their own names. Unknown types become the mode's neutral one; indexes and ids that name
    nothing are dropped.
    """
    word = text_of(note.get("type"))
    if plain_name(word) in SKIP_TYPES:
        return None
    kind = prompt.mode.type_of(word)
    title, subtitle = text_of(note.get("title")), text_of(note.get("subtitle"))
    narrative = block_of(note.get("narrative"))
    facts = lines_of(note.get("facts"), MOST_FACTS)
    concepts = tuple(dict.fromkeys(line.lower() for line in lines_of(note.get("concepts"), MOST_CONCEPTS)))
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
        files_read=lines_of(note.get("files_read"), MOST_FILES),
        files_modified=lines_of(note.get("files_modified"), MOST_FILES),
        sources=tuple(index for index in _indexes(note.get("events")) if index < prompt.count),
        supersedes=tuple(prompt.refs[ref] for ref in _refs(note.get("supersedes")) if ref in prompt.refs),
    )


def summary_draft(summary: Mapping[str, Any]) -> Draft | None:
    """The draft of a raw summary; None for an empty one. Its parts are facts that begin with the part's name."""
    parts = {name: " ".join(block_of(summary.get(name)).split()) for name in SUMMARY_MEMBERS}
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
    """A member as a text of its own lines; a list of texts is put together, `&lt;` and its like are decoded."""
    if isinstance(value, str):
        return _decoded(value).strip()
    if isinstance(value, list):
        return "\n".join(part for each in value if (part := block_of(each)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return ""


def lines_of(value: Any, most: int) -> tuple[str, ...]:
    """A member as a list of lines, each once: items of a list, or the lines of a text without their bullets."""
    items: Iterable[Any] = value if isinstance(value, list) else str(value).splitlines() if value else ()
    if isinstance(value, Mapping):
        items = value.values()
    lines = (_BULLET.sub("", text_of(item)) for item in items)
    return tuple(dict.fromkeys(clipped(line, LINE_LENGTH) for line in lines if line))[:most]


def first_sentence(text: str) -> str:
    """The first sentence of a text, without a heading's marks."""
    return " ".join(_SENTENCE.split(text.strip(), maxsplit=1)[0].strip("#*` \t").split())


def clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _decoded(text: str) -> str:
    return html.unescape(text) if _ENTITY.search(text) else text


def _indexes(value: Any) -> tuple[int, ...]:
    """Indexes in any spelling: numbers, texts with a number, a text with several."""
    return tuple(dict.fromkeys(index for each in _flat(value) for index in _numbers(each)))


def _numbers(value: Any) -> list[int]:
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value] if value >= 0 else []
    return [int(found) for found in _INTEGER.findall(value)] if isinstance(value, str) else []


def _refs(value: Any) -> tuple[str, ...]:
    words = (word for each in _flat(value) if isinstance(each, str) for word in re.split(r"[\s,;]+", each))
    return tuple(dict.fromkeys(word.strip("[]").lower() for word in words))


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [leaf for each in value[:MOST_FILES] for leaf in (each if isinstance(each, list) else [each])]
    return [] if value is None else [value]
