"""Answers in JSON: whole, in a code fence, among prose, wrapped as a tool call, or cut in their middle."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from onlooker.providers.drafts import MEMBERS, member_of
from onlooker.providers.found import Found
from onlooker.providers.prompt import SUMMARY_MEMBERS

_decode = json.JSONDecoder(strict=False).raw_decode
_OPENING = re.compile(r"[{\[]")
_LIST = re.compile(r'(?:\{\s*"(?:observations|notes|items)"\s*:\s*)?\[', re.IGNORECASE)
_NEXT = re.compile(r"[\s,]*\{")
_MOST_TRIES = 50
_WRAPPERS = ("arguments", "parameters", "input", "result", "answer", "output", "response", "data", "json")
_LISTS = frozenset({"observations", "observation", "notes", "items"})
_SKIPS = ("skip_summary", "skip", "skip_reason", "reason")
_NOTE_MEMBERS = frozenset({"title", "narrative", "facts"})
_SUMMARY_ONLY = frozenset(SUMMARY_MEMBERS) - {"notes"}


def find(text: str) -> tuple[int, Found | None]:
    """Where the first answer in JSON begins in a text, and what all of them say."""
    answers = list(_answers(text))
    said = [found for _, found in answers if found.error is None]
    if not said:
        return answers[0] if answers else (len(text), None)
    start = next(start for start, found in answers if found.error is None)
    reasons = (found.skip_reason for found in said if found.skip_reason)
    return start, Found(
        notes=tuple(note for found in said for note in found.notes),
        summaries=tuple(summary for found in said for summary in found.summaries),
        skip_reason=next(reasons, None),
        is_cut=said[-1].is_cut,
        echoes=sum(found.echoes for found in said),
    )


def _answers(text: str) -> Iterator[tuple[int, Found]]:
    """The objects and lists of a text, in no other one, that are answers; the whole members of a list without end."""
    position = tries = 0
    while tries < _MOST_TRIES and (opening := _OPENING.search(text, position)):
        tries += 1
        start = opening.start()
        try:
            value, position = _decode(text, start)
        except (ValueError, RecursionError):
            position = opening.end()
            if (found := _cut_list(text, start)) is not None:
                yield start, found
                return
        else:
            if (found := find_in(value)) is not None:
                yield start, found


def find_in(value: Any) -> Found | None:
    """What a JSON value says as an answer; None where it is none."""
    if isinstance(value, list):
        is_answer = not value or any(isinstance(item, Mapping) and _is_note(_inner(item)) for item in value)
        return _of_list(value) if is_answer else None
    if not isinstance(value, Mapping):
        return None
    members = {member_of(name): member for name, member in value.items()} | {
        name.lower(): member for name, member in value.items() if name.lower() in _LISTS or name.lower() == "summary"
    }
    listed = next((members[name] for name in ("observations", "observation", "items") if name in members), None)
    if listed is None and isinstance(members.get("notes"), list):
        listed = members["notes"]
    if listed is not None:
        found = _of_list(listed if isinstance(listed, list) else [listed])
        return found and _with_skip(found, value)
    summary = members.get("summary")
    if isinstance(summary, Mapping):
        return _with_skip(Found(summaries=(_named(summary),)), value)
    if len(_SUMMARY_ONLY & members.keys()) > 1:
        return Found(summaries=(_named(value),))
    if _is_note(value):
        return Found(notes=(_named(value),))
    return _wrapped(value) or _skip_alone(value, members) or _error(value)


def _inner(item: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = item.get("observation", item)
    return inner if isinstance(inner, Mapping) else item


def _is_note(value: Mapping[str, Any]) -> bool:
    """Whether an object that nothing calls an observation is one: it has the members by their own names."""
    return bool(_NOTE_MEMBERS & {name.lower() for name in value}) and "tool_name" not in value


def _of_list(items: list[Any]) -> Found | None:
    notes = [_named(_inner(item)) for item in items if isinstance(item, Mapping)]
    good = tuple(note for note in notes if note.keys() & MEMBERS)
    if items and not good:
        return Found(echoes=len(notes)) if notes else None
    return Found(notes=good, echoes=len(notes) - len(good))


def _named(value: Any) -> Mapping[str, Any]:
    """Members under their own names; the first of two that mean the same counts."""
    if not isinstance(value, Mapping):
        return {}
    named: dict[str, Any] = {}
    for name, member in value.items():
        named.setdefault(member_of(name), member)
    if "facts" in named and isinstance(named.get("notes"), list | type(None)):
        named.pop("notes", None)
    return named


def _wrapped(value: Mapping[str, Any]) -> Found | None:
    """An answer one level down, as in a tool call that was written out."""
    for name in _WRAPPERS:
        inner = value.get(name)
        if isinstance(inner, str) and inner.lstrip()[:1] in {"{", "["}:
            try:
                inner = json.loads(inner)
            except (ValueError, RecursionError):
                continue
        if isinstance(inner, Mapping | list) and (found := find_in(inner)) is not None and found.error is None:
            return found
    return None


def _with_skip(found: Found, value: Mapping[str, Any]) -> Found:
    reason = next((value[name] for name in _SKIPS if isinstance(value.get(name), str) and value[name].strip()), None)
    return Found(found.notes, found.summaries, reason, found.is_cut, found.echoes)


def _skip_alone(value: Mapping[str, Any], members: Mapping[str, Any]) -> Found | None:
    """`{"skip": true}`, `{"skip_reason": "…"}`, `{"summary": null}`, `{"type": "skip"}`."""
    skips = any(value.get(name) for name in ("skip_summary", "skip", "skip_reason"))
    says_none = "summary" in members and not members["summary"]
    if skips or says_none or members.get("type") == "skip":
        return _with_skip(Found(), value)
    return None


def _error(value: Mapping[str, Any]) -> Found | None:
    """An error object, as `{"error": …}` or with a type of that name."""
    return Found(error=value) if "error" in value or value.get("type") == "error" else None


def _cut_list(text: str, start: int) -> Found | None:
    """The whole observations of a list that begins here, or in an object that does, and that has no end."""
    begin = _LIST.match(text, start)
    if begin is None:
        return None
    position, notes = begin.end(), []
    while (opening := _NEXT.match(text, position)) is not None:
        try:
            value, position = _decode(text, opening.end() - 1)
        except (ValueError, RecursionError):
            break
        if _is_note(_inner(value)):
            notes.append(_named(_inner(value)))
    return Found(notes=tuple(notes), is_cut=True) if notes else None
