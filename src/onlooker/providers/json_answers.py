"""Answers in JSON: in a code fence, among prose, in whatever wrapping, sloppily written, or cut in their middle."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from onlooker.providers import loose_json
from onlooker.providers.drafts import MEMBERS, is_prose, is_skip, member_of
from onlooker.providers.found import Found
from onlooker.providers.prompt import SUMMARY_MEMBERS

_decode = json.JSONDecoder(strict=False).raw_decode
_OPENING = re.compile(r"[{\[]")
_BEGINS_LIKE_JSON = re.compile(r"[{\[]\s*(?:[\"'“”„{\[]|[A-Za-z_]\w*\s*:|//|/\*|#)")
_INDEXED = re.compile(r"[\w\])]\Z")
_MOST_TRIES = 50
_MOST_NESTED = 6
_WRAPPERS = frozenset(
    {"arguments", "parameters", "input", "result", "answer", "output", "response", "data", "json", "content"}
)
"""In these a single note counts too, that nothing calls an observation."""
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
            found, position = _read_loosely(text, start)
        else:
            # An index, as in `args[]`, is no empty list of observations.
            found = None if value == [] and _INDEXED.search(text[:start][-1:]) else find_in(value)
        if found is not None:
            yield start, found


def _read_loosely(text: str, start: int) -> tuple[Found | None, int]:
    """What stands in JSON that is none strictly, and where to read on."""
    if _BEGINS_LIKE_JSON.match(text, start):
        try:
            value, end, is_cut = loose_json.decode(text, start, _may_hold_list)
        except ValueError:
            return None, start + 1
        found = find_in(value)
        if found is not None and found.error is None and (found.notes or not is_cut):
            return replace(found, is_cut=is_cut), end
    return None, start + 1


def _may_hold_list(name: str) -> bool:
    return name.lower() in _LISTS or name.lower() in _WRAPPERS


def find_in(value: Any, depth: int = 0, *, by_name: bool = False) -> Found | None:
    """What a JSON value says as an answer, itself or in whatever it is wrapped in; None where it is none.

    `by_name`: only what calls itself observations or a summary counts, no note and no list that just lies there.
    """
    if isinstance(value, str):
        value = _json_in(value)
    if isinstance(value, list):
        is_answer = not value or any(isinstance(item, Mapping) and _is_note(_inner(item)) for item in value)
        return _of_list(value) if is_answer and not by_name else _inside({"": value}, depth)
    if not isinstance(value, Mapping):
        return None
    found = _named_answer(value, by_name=by_name) or (None if by_name else _bare_answer(value))
    found = found or _inside(value, depth)
    return found if found is not None or by_name else _skip_alone(value) or (_error(value) if depth == 0 else None)


def _named_answer(value: Mapping[str, Any], *, by_name: bool) -> Found | None:
    """The list, or the summary, that an object has under its name; without `by_name` also under `items` or `notes`."""
    members = {name.lower(): member for name, member in value.items()}
    name: str | None = next((name for name in ("observations", "observation") if name in members), None)
    if name is None and not by_name:
        name = next((name for name in ("items", "notes") if isinstance(members.get(name), list)), None)
    if name is not None and (found := _of_list(_listed(members[name]))) is not None:
        return _with_skip(found, value)
    summary = members.get("summary")
    return _with_skip(Found(summaries=(_named(summary),)), value) if isinstance(summary, Mapping) else None


def _bare_answer(value: Mapping[str, Any]) -> Found | None:
    """A summary or a note that nothing calls so, by its members."""
    if len(_SUMMARY_ONLY & {member_of(name) for name in value}) > 1:
        return Found(summaries=(_named(value),))
    if _is_note(value):
        return Found(notes=(_named(value),))
    summary = value.get("summary")
    return Found(summaries=({"completed": summary},)) if isinstance(summary, str) and is_prose(summary) else None


def text_inside(text: str) -> str | None:
    """The first text of a JSON value, which is the whole of a text, in which an answer may stand; None for no such."""
    waiting = [_json_in(text)]
    for _ in range(_MOST_TRIES):
        if not waiting:
            break
        value = waiting.pop(0)
        if isinstance(value, str) and ("<" in value or "{" in value):
            return value
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, Mapping) and not _is_given(value):
            waiting += value.values()
    return None


def _json_in(text: str) -> Any:
    """The value of JSON in a text; None where there is none."""
    if text.lstrip()[:1] in {"{", "[", '"'}:
        try:
            return json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return None
    return None


def _listed(value: Any) -> list[Any]:
    """What stands where the list of observations should: one alone, one under each index, JSON in a text, nothing."""
    if isinstance(value, str):
        value = _json_in(value) if value.strip() else []
    if isinstance(value, Mapping):
        inner = value.values()
        return list(inner) if value and all(isinstance(each, Mapping) for each in inner) else [value]
    return value if isinstance(value, list) else [] if value is None else [value]


def _inner(item: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = item.get("observation", item)
    return inner if isinstance(inner, Mapping) else item


def _is_note(value: Mapping[str, Any]) -> bool:
    """Whether an object that nothing calls an observation is one: it has the members by their own names."""
    return bool(_NOTE_MEMBERS & {name.lower() for name in value}) and not _is_given(value)


def _is_given(value: Mapping[str, Any]) -> bool:
    """Whether an object is an event's payload, which a model repeated: whatever is in it was not said by the model."""
    return "tool_name" in value or "tool_input" in value


def _of_list(items: list[Any]) -> Found | None:
    """A text in place of an observation is its narrative. What repeats the input has members, and none of ours."""
    told = [item for item in items if item]
    notes = [{"narrative": item} if isinstance(item, str) else _named(_inner(item)) for item in told if _may_say(item)]
    good = tuple(note for note in notes if note.keys() & MEMBERS)
    if told and not notes:
        return None
    return Found(notes=good, echoes=len(notes) - len(good))


def _may_say(item: Any) -> bool:
    return isinstance(item, Mapping) or (isinstance(item, str) and is_prose(item))


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


def _inside(wrapping: Mapping[str, Any], depth: int) -> Found | None:
    """An answer further down, as in a tool call that was written out."""
    if depth >= _MOST_NESTED or _is_given(wrapping):
        return None
    for name, inner in wrapping.items():
        for each in inner if isinstance(inner, list) else [inner]:
            found = find_in(each, depth + 1, by_name=name.lower() not in _WRAPPERS)
            if found is not None:
                return found
    return None


def _with_skip(found: Found, value: Mapping[str, Any]) -> Found:
    told = (value[name] for name in _SKIPS if name in value)
    reasons = (each.get("reason") if isinstance(each, Mapping) else each for each in told)
    reason = next((each for each in reasons if isinstance(each, str) and each.strip()), None)
    return replace(found, skip_reason=reason)


def _skip_alone(value: Mapping[str, Any]) -> Found | None:
    """`{"skip": true}`, `{"skip_reason": "…"}`, `{"summary": null}`, `{"type": "skip"}`."""
    skips = any(value.get(name) for name in ("skip_summary", "skip", "skip_reason"))
    says_none = "summary" in value and not value["summary"]
    if skips or says_none or is_skip(_named(value).get("type")):
        return _with_skip(Found(), value)
    return None


def _error(value: Mapping[str, Any]) -> Found | None:
    """An error object, as `{"error": …}` or with a type of that name."""
    return Found(error=value) if value.get("error") or value.get("type") == "error" else None
