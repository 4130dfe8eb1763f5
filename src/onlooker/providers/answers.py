"""What a model answered, as drafts: by JSON or by tags, whatever stands around them.

Words decide nothing here: an answer is read by its form, and what is no observation by its form is not stored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onlooker.domain.models import Draft
from onlooker.providers import json_answers, tagged
from onlooker.providers.drafts import draft_of, summary_draft
from onlooker.providers.found import Found
from onlooker.providers.prompt import Prompt, Task

NOTHING_TO_NOTE = "nothing that deserves a note"

_THINKS = re.compile(r"\s*<(think|thinking|thought|thoughts|reasoning|analysis)\s*>", re.IGNORECASE)
_THOUGHT = re.compile(r"</think(?:ing)?\s*>[ \t]*(?:\n|$)", re.IGNORECASE)
"""The end of thoughts whose beginning the server has kept to itself: nothing follows on its line."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Drafts, possibly none, then with the reason. `answered` is that of `GenerationAnswer`.

    `is_cut` says that the answer ended before anything of it could be used.
    """

    drafts: tuple[Draft, ...] = ()
    skip_reason: str | None = None
    answered: int | None = None
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that cannot be used, and why. `can_repair`: the model did answer, only not in the form."""

    what: str
    can_repair: bool = True
    error: Mapping[str, Any] | None = field(default=None)


def read_answer(text: str, data: Any, prompt: Prompt, *, cut_by_limit: bool) -> Reading | Problem:
    """What a model said: `data` where the provider gave it apart, else what is found in `text`."""
    found = json_answers.find_in(data) if data is not None else _find(text)
    if found is None:
        if cut_by_limit:
            return Reading(is_cut=True)
        if not text.strip():
            return Problem("it is empty", can_repair=False)
        return Problem("it has neither the JSON object nor the blocks that were asked for")
    if found.error is not None:
        return Problem("it is an error of the endpoint", can_repair=False, error=found.error)
    return _checked(found, prompt, cut_by_limit=cut_by_limit)


def _find(text: str) -> Found | None:
    """JSON or tags, whichever begins first: each may be quoted inside the other."""
    text = without_thoughts(text)
    json_at, in_json = json_answers.find(text)
    if in_json is None and (inner := json_answers.text_inside(text)) is not None:
        return _find(inner)
    tags_at, in_tags = tagged.find(text)
    if in_json is None or in_tags is None:
        return in_json or in_tags
    return in_json if json_at < tags_at else in_tags


def without_thoughts(text: str) -> str:
    """The answer behind what a model thought aloud. Drafts in its thoughts are no part of the answer."""
    if opened := _THINKS.match(text):
        end = re.compile(rf"</{opened[1]}\s*>", re.IGNORECASE).search(text, opened.end())
        return text[end.end() :] if end else ""
    if (end := _THOUGHT.search(text)) and not _THINKS.search(text, 0, end.start()):
        return text[end.end() :]
    return text


def _checked(found: Found, prompt: Prompt, *, cut_by_limit: bool) -> Reading | Problem:
    is_cut = found.is_cut or cut_by_limit
    if prompt.task is Task.SUMMARY:
        return _summary(found, is_cut=is_cut)
    if found.summaries and not found.notes:
        return Problem("it is a summary where observations were asked for")
    made = [draft for note in found.notes if (draft := draft_of(note, prompt)) is not None]
    drafts = tuple(dict.fromkeys(made))
    if is_cut:
        return _cut_reading(drafts, prompt, by_limit=cut_by_limit)
    if not drafts and found.echoes:
        return Problem("it repeats what was given in place of observations")
    return Reading(drafts, None if drafts else found.skip_reason or NOTHING_TO_NOTE)


def _summary(found: Found, *, is_cut: bool) -> Reading | Problem:
    drafts = [draft for summary in found.summaries if (draft := summary_draft(summary)) is not None]
    if drafts:
        return Reading((drafts[0],))
    if is_cut:
        return Reading(is_cut=True)
    if found.notes or found.echoes:
        return Problem("it has no summary, which was asked for")
    return Reading((), found.skip_reason or "nothing to sum up")


def _cut_reading(drafts: Sequence[Draft], prompt: Prompt, *, by_limit: bool) -> Reading:
    """The whole blocks of an answer that ended early, and how many events they are about.

    Models answer in the order of the events. Where a block does not say what it is about, nobody knows how far the
    answer came; then all is asked again in smaller parts, if it was the limit of its length that ended it. Where the
    model ended by itself, only the block without an end is lost.
    """
    if not drafts:
        return Reading(is_cut=True)
    if prompt.count <= 1:
        return Reading(tuple(drafts))
    if not all(draft.sources for draft in drafts):
        return Reading(is_cut=True) if by_limit else Reading(tuple(drafts))
    answered = max(index for draft in drafts for index in draft.sources) + 1
    return Reading(tuple(drafts), answered=answered if answered < prompt.count else None)
