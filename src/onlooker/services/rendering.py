"""Notes and prompts as text for a model or a person, a line each or whole. Times are UTC."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from onlooker.domain.adapters import prompt_of
from onlooker.domain.models import Hit, Observation, Prompt

LONGEST_TITLE = 120
LONGEST_PROMPT = 240
MOST_FILES = 3
FIRST_YEARS_MS, LAST_YEARS_MS = 0, 253_402_300_799_999
"""What a calendar can tell: 1970 to 9999."""


def moment(at: int) -> str:
    """A time in epoch milliseconds as `2026-03-31 14:02`."""
    told = min(max(at, FIRST_YEARS_MS), LAST_YEARS_MS)
    return datetime.fromtimestamp(told / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def clip(text: str, length: int) -> str:
    """The text on one line, cut at a word where there is one: some scripts, and codes, have no blanks."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    head = line[: length - 2]
    return f"{head.rpartition(' ')[0] or head} …"


def files_of(note: Observation) -> tuple[str, ...]:
    """The files of a note, those that it changed first, each once."""
    return tuple(dict.fromkeys((*note.files_modified, *note.files_read)))


def note_line(note: Observation) -> str:
    """A note in about 40 tokens: id, time, kind, title, files, and whether it still holds."""
    files = files_of(note)
    more = f", +{len(files) - MOST_FILES}" if len(files) > MOST_FILES else ""
    about = f" [{', '.join(files[:MOST_FILES])}{more}]" if files else ""
    title = clip(note.title, LONGEST_TITLE)
    return f"{note.id}  {moment(note.occurred_at)}  {note.type_shown}  {title}{about}{_doubt(note)}"


def _doubt(note: Observation) -> str:
    replaced = "" if note.superseded_by is None else f" (replaced by {note.superseded_by})"
    return f" (called wrong: hidden until somebody has looked){replaced}" if note.hidden else replaced


def judged_text(note: Observation) -> str:
    """What holds for a note after somebody said what it is worth, and how what is hidden comes back."""
    if not note.hidden:
        return "It is found as others are."
    return (
        "It is hidden: no search, timeline or context has it until a person has looked. `onlooker feedback` lists what "
        f"is hidden, `onlooker feedback {note.id} clear` brings it back."
    )


def prompt_text(prompt: Prompt) -> str:
    """What was asked, on one line."""
    payload = json.loads(prompt.payload_json)
    asked = (prompt_of(payload) if isinstance(payload, dict) else None) or ""
    return clip(asked, LONGEST_PROMPT)


def prompt_line(prompt: Prompt) -> str:
    """A prompt as a line of a timeline."""
    return f"{moment(prompt.occurred_at)}  asked: {prompt_text(prompt)}"


def index_text(hits: Iterable[Hit]) -> str:
    """What a search found, a line each, best first."""
    return "\n".join(note_line(hit.observation) for hit in hits)


def timeline_text(entries: Iterable[Observation | Prompt], anchor_id: str | None) -> str:
    """What happened, a line each, in order; an arrow marks the anchor."""
    lines = []
    for entry in entries:
        if isinstance(entry, Prompt):
            lines.append(f"  {prompt_line(entry)}")
        else:
            mark = ">" if entry.id == anchor_id else " "
            lines.append(f"{mark} {note_line(entry)}")
    return "\n".join(lines)


def notes_text(notes: Iterable[Observation]) -> str:
    """Notes whole, one below the other, each under its line."""
    return "\n\n---\n\n".join(f"{note_line(note)}\n\n{note.content}" for note in notes)
