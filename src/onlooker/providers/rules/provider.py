"""Observations without a model: what a tool use says of itself, in few words."""

import asyncio
import re
from collections.abc import Sequence

from onlooker.domain.adapters import prompt_of
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Draft, Event, ObservationKind
from onlooker.providers.contract import CallsNobody, GenerationAnswer, GenerationRequest
from onlooker.providers.rules.answers import observe_answers
from onlooker.providers.rules.commands import observe_commands
from onlooker.providers.rules.edits import collect_edits, observe_edits
from onlooker.providers.rules.reading import observe_reading
from onlooker.providers.rules.step import Step, read_step
from onlooker.providers.rules.summary import summarise

_READ_AT_ONCE = 8
"""Events that are parsed before other tasks of the process get their turn."""

_ASKS_FOR = (
    (
        re.compile(r"\b(?:fix(?:e[sd]|ing)?|bugs?|broken|crash(?:es|ed)?|regression)\b", re.IGNORECASE),
        ObservationKind.BUGFIX,
    ),
    (
        re.compile(r"\b(?:refactor\w*|renam\w+|restructur\w+|clean ?up|simplif\w+)\b", re.IGNORECASE),
        ObservationKind.REFACTOR,
    ),
)


class RulesProvider(CallsNobody):
    """Needs nothing and remembers nothing: the same events give the same drafts."""

    name = "rules"
    prompt_version = "rules-1"
    longest_run = 50

    async def generate(self, request: GenerationRequest) -> GenerationAnswer:
        """Never raises, whatever the events hold."""
        steps: list[Step] = []
        seen: set[str] = set()
        for index, event in enumerate(request.events):
            if event.event_key not in seen:
                seen.add(event.event_key)
                steps.append(read_step(index, event))
            if index % _READ_AT_ONCE == _READ_AT_ONCE - 1:
                await asyncio.sleep(0)
        drafts = summary_of(steps) if request.kind is JobKind.SUMMARY else observations_of(steps)
        return GenerationAnswer(drafts, skip_reason=None if drafts else "nothing that deserves a note")


def observe(events: Sequence[Event]) -> tuple[Draft, ...]:
    """The observations of a run of events, in the order of their first source."""
    return observations_of([read_step(index, event) for index, event in enumerate(events)])


def observations_of(steps: Sequence[Step]) -> tuple[Draft, ...]:
    """Edits by file, commands by what they are known by, answers one by one, and all reading in one."""
    touched = sorted((step.index, file.path) for file in collect_edits(steps) for step in file.steps)
    drafts = [
        *observe_edits(steps, _asked(steps)),
        *observe_commands(steps, touched),
        *observe_answers(steps),
    ]
    reading = observe_reading(steps, beside_work=bool(drafts))
    if reading is not None:
        drafts.append(reading)
    return tuple(sorted((draft for draft in drafts if draft.title), key=lambda draft: draft.sources))


def summary_of(steps: Sequence[Step]) -> tuple[Draft, ...]:
    """The summary of a turn or a session, or nothing."""
    draft = summarise(steps)
    return (draft,) if draft and draft.title else ()


def _asked(steps: Sequence[Step]) -> ObservationKind | None:
    """The kind of change that the run's last prompt asks for in so many words."""
    prompts = [text for step in steps if step.event_type == "user_prompt" and (text := prompt_of(step.payload))]
    if not prompts:
        return None
    return next((kind for pattern, kind in _ASKS_FOR if pattern.search(prompts[-1][:2_000])), None)
