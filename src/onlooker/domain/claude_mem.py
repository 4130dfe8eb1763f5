"""What claude-mem's database holds, as ours. One reader for every version: it goes by the columns that there are."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from onlooker.domain.models import Draft, ObservationKind

NEUTRAL = ObservationKind.DISCOVERY
"""The kind of a note whose type is none of ours."""

TITLE_LENGTH = 200
SUMMARY_PARTS = ("request", "investigated", "learned", "completed", "next_steps", "notes")
LATEST_MS = 9_999_999_999_999

Row = Mapping[str, Any]


def text_in(row: Row, *names: str) -> str:
    """The first of these columns that holds a text; empty where none does."""
    for name in names:
        value = row.get(name)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def list_in(row: Row, *names: str) -> tuple[str, ...]:
    """The first of these columns that holds a list: JSON, or lines, or parts between commas in what is neither."""
    text = text_in(row, *names)
    if not text:
        return ()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = text.splitlines() if "\n" in text else text.split(",")
    if isinstance(found, str):
        found = [found]
    if not isinstance(found, list):
        return ()
    return tuple(dict.fromkeys(each.strip() for each in found if isinstance(each, str) and each.strip()))


def time_in(row: Row, name: str = "created_at") -> int:
    """When a row was made, in epoch milliseconds: its epoch column, else its text; 0 where neither can be read."""
    value = row.get(f"{name}_epoch")
    if isinstance(value, int | float) and 0 < value <= LATEST_MS:
        return int(value)
    try:
        made = datetime.fromisoformat(text_in(row, name))
        found = int((made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0
    return found if 0 < found <= LATEST_MS else 0


def kind_in(row: Row) -> ObservationKind:
    """The kind of a note by its type."""
    try:
        return ObservationKind(text_in(row, "type").lower())
    except ValueError:
        return NEUTRAL


def note_in(row: Row) -> Draft | None:
    """The note of a row of `observations` or `memories`; None for one that says nothing."""
    narrative = text_in(row, "narrative", "text")
    title = text_in(row, "title") or narrative.partition("\n")[0][:TITLE_LENGTH]
    facts, concepts = list_in(row, "facts"), list_in(row, "concepts")
    if not (title or narrative or facts or concepts):
        return None
    return Draft(
        kind_in(row),
        title or next(iter((*facts, *concepts))),
        subtitle=text_in(row, "subtitle"),
        narrative=narrative,
        facts=facts,
        concepts=concepts,
        files_read=list_in(row, "files_read", "files_touched"),
        files_modified=list_in(row, "files_modified"),
    )


def summary_in(row: Row) -> Draft | None:
    """The note of a row of `session_summaries` or `overviews`; None for one that says nothing."""
    parts = {name: " ".join(text_in(row, name).split()) for name in SUMMARY_PARTS}
    whole = text_in(row, "content")
    facts = tuple(f"{name}: {text}" for name, text in parts.items() if text)
    if not (facts or whole):
        return None
    title = parts["request"] or parts["completed"] or whole.partition("\n")[0] or facts[0]
    return Draft(
        ObservationKind.SUMMARY,
        title[:TITLE_LENGTH],
        narrative=whole or parts["completed"],
        facts=facts,
        files_read=list_in(row, "files_read"),
        files_modified=list_in(row, "files_edited"),
    )
