"""What a turn or a session came to: the request, what was looked at, learned and done, and what is left."""

import re
from collections.abc import Iterable, Mapping, Sequence

from onlooker.domain.adapters import closing_message_of, prompt_of
from onlooker.domain.models import Draft, ObservationKind
from onlooker.providers.rules.commands import CommandRun, commit_subject, read_command
from onlooker.providers.rules.edits import FileEdits, collect_edits
from onlooker.providers.rules.reading import files_of, is_reading
from onlooker.providers.rules.step import Step, indexes
from onlooker.providers.rules.text import (
    FACT_LENGTH,
    NARRATIVE_LENGTH,
    TITLE_LENGTH,
    clip,
    facts,
    first_sentences,
    named,
    sentences,
)

_SHORTEST_CLOSING = 40
"""A closing message below this many characters, of a turn with no work, is no more than a nod."""

_SHORTEST_TITLE = 12
"""A prompt's sentence below this ("Good.") says nothing; the next one may."""

_COMMAND_TAG = re.compile(r"</?(?:command|local-command)-[a-z]+>")
_LONGEST_SENTENCE = 1_000
_SHORT_SENTENCE = 30

_LEARNED = re.compile(
    r"\b(?:because|since|cause[sd]?|turn(?:s|ed) out|reason|due to|actually|instead of|the problem|the issue|the bug|"
    r"so that|root cause|not (?:an?|the) \w+,|found that|noticed)\b",
    re.IGNORECASE,
)
_NEXT = re.compile(
    r"\b(?:next steps?|todo|remain(?:s|ing)|still (?:to|needs?|missing)|not yet|left to do|follow[- ]?up|"
    r"should (?:now|next|also)|you (?:can|may|could|should|need to|might)|later|not handled|"
    r"want me to|sh(?:all|ould) i)\b",
    re.IGNORECASE,
)


def summarise(steps: Sequence[Step]) -> Draft | None:
    """One draft of kind summary; None when nothing was done and nothing of weight was said."""
    prompts = [asked for step in steps if step.event_type == "user_prompt" and (asked := _asked(step))]
    closings = [text for step in steps if step.event_type == "turn_end" and (text := closing_message_of(step.payload))]
    if not closings:
        closings = [
            text for step in steps if step.event_type == "agent_response" and (text := closing_message_of(step.payload))
        ][-1:]
    edits = collect_edits(steps)
    runs = [run for step in steps if (run := read_command(step))]
    read = list(dict.fromkeys(path for step in steps if is_reading(step) for path in files_of(step)))
    modified = [file.path for file in edits]
    if not (edits or runs or read) and max((len(text) for text in closings), default=0) < _SHORTEST_CLOSING:
        return None
    told = [sentence for prompt in prompts for sentence in sentences(prompt)]
    request = next((sentence for sentence in told if len(sentence) >= _SHORTEST_TITLE), told[0] if told else "")
    done = _done(edits, runs) or (f"looked at {named(read, 3)}" if read else "")
    return Draft(
        ObservationKind.SUMMARY,
        clip(request or next((s for text in closings for s in sentences(text)), "") or done, TITLE_LENGTH),
        narrative=clip(_narrative(closings) or done, NARRATIVE_LENGTH),
        facts=facts(
            _fact("request", _heads(prompts)),
            _fact("investigated", named(read, 5)),
            _fact("learned", _matching(closings, _LEARNED)),
            _fact("completed", done),
            _fact("next_steps", _open_tasks(steps) or _matching(closings[-1:], _NEXT)),
        ),
        concepts=("what-changed",) if edits else ("how-it-works",),
        files_read=tuple(path for path in read if path not in modified)[:20],
        files_modified=tuple(modified[:50]),
        sources=indexes(steps),
    )


def _asked(step: Step) -> str:
    """The prompt, without the tags around a slash command."""
    return _COMMAND_TAG.sub(" ", (prompt_of(step.payload) or "")[:20_000]).strip()


def _fact(name: str, text: str) -> str:
    return f"{name}: {text}" if text else ""


def _heads(prompts: Sequence[str]) -> str:
    if len(prompts) == 1:
        return first_sentences(prompts[0], FACT_LENGTH - 10)
    room = max((FACT_LENGTH - 10) // max(len(prompts), 1), 40)
    return "; ".join(clip(next(sentences(prompt), ""), room) for prompt in prompts[:4])


def _narrative(closings: Sequence[str]) -> str:
    if len(closings) == 1:
        return first_sentences(closings[0], NARRATIVE_LENGTH)
    return " ".join(
        clip(next(sentences(text), ""), NARRATIVE_LENGTH // min(len(closings), 4)) for text in closings[-4:]
    )


def _matching(texts: Iterable[str], pattern: re.Pattern[str]) -> str:
    """The first two sentences that match; a short one only announces the next, which then comes with it."""
    found: list[str] = []
    for text in texts:
        said = list(sentences(text))
        for i, sentence in enumerate(said):
            if pattern.search(sentence[:_LONGEST_SENTENCE]):
                found.extend(said[i : i + 2] if len(sentence) < _SHORT_SENTENCE else (sentence,))
    return " ".join(list(dict.fromkeys(found))[:2])


def _done(edits: Sequence[FileEdits], runs: Sequence[CommandRun]) -> str:
    parts = []
    commits = [subject for run in runs if not run.failed and (subject := commit_subject(run))]
    tests = next((run.tests.counts for run in reversed(runs) if run.tests), "")
    if commits:
        parts.append("committed " + named((f"“{clip(subject, 60)}”" for subject in commits), 2))
    if tests:
        parts.append(f"last test run: {tests}")
    if edits:
        parts.append(f"modified {named((file.path for file in edits), 4)}")
    if not parts and runs:
        parts.append(f"ran {named((clip(run.line, 50) for run in runs), 2)}")
    return "; ".join(parts)


def _open_tasks(steps: Sequence[Step]) -> str:
    """What the last to-do list of the turn leaves open."""
    for step in reversed(steps):
        if step.use is not None and step.use.tool == "TodoWrite":
            todos = step.use.input.get("todos")
            items = [todo for todo in todos if isinstance(todo, Mapping)] if isinstance(todos, list) else []
            left = [
                todo["content"]
                for todo in items
                if todo.get("status") != "completed" and isinstance(todo.get("content"), str)
            ]
            return named((clip(text, 50) for text in left), 3)
    return ""
