"""What others told the agent: subagents, MCP servers, the web, the person at the keyboard."""

import re
from collections.abc import Iterable, Iterator, Mapping

from onlooker.domain.models import Draft, ObservationKind
from onlooker.providers.rules.edits import EDIT_TOOLS
from onlooker.providers.rules.outcomes import first_error
from onlooker.providers.rules.reading import READ_TOOLS
from onlooker.providers.rules.step import Step
from onlooker.providers.rules.text import (
    NARRATIVE_LENGTH,
    TITLE_LENGTH,
    clip,
    facts,
    first_sentences,
    lines_of,
    sentences,
)

_SILENT = frozenset(
    "todowrite todoread taskcreate taskupdate tasklist taskget taskoutput taskstop bashoutput killshell killbash "
    "slashcommand skill toolsearch enterplanmode sleep wait write_stdin list_mcp_resources listmcpresourcestool".split()
)
"""Tools for the agent's own housekeeping."""

_ASKED = re.compile(r"\"([^\"]{1,300})\"\s*=\s*\"([^\"]{1,300})\"")
_SCALAR_LENGTH = 40


def observe_answers(steps: Iterable[Step]) -> Iterator[Draft]:
    """A draft for each answer with something in it."""
    for step in steps:
        use = step.use
        if use is None or use.tool in EDIT_TOOLS or use.tool in READ_TOOLS or use.tool == "Bash":
            continue
        if use.tool.lower() in _SILENT:
            continue
        draft = _draft(step)
        if draft is not None:
            yield draft


def _draft(step: Step) -> Draft | None:
    use = step.use
    if use is None:
        return None
    text = use.error or use.output
    match use.tool:
        case "Task":
            return _told(step, step.text("description") or step.text("prompt") or "Subagent", text)
        case "WebSearch":
            titles = [line.strip()[7:] for line in lines_of(text) if line.strip().startswith("title: ")]
            return _told(step, f"Web search: {step.text('query')}", "; ".join(titles[:6]) or text)
        case "WebFetch":
            return _told(step, f"{step.text('url')}: {step.text('prompt')}".strip(": "), text)
        case "AskUserQuestion":
            return _decided(step, text)
        case "ExitPlanMode":
            plan = step.text("plan")
            heading = next(sentences(plan), "")
            return (
                None
                if not heading or use.failed
                else _note(
                    step,
                    ObservationKind.DECISION,
                    f"Plan: {heading}",
                    first_sentences(plan, NARRATIVE_LENGTH),
                    ("why-it-exists",),
                )
            )
        case _:
            return _other(step, text)


def _told(step: Step, title: str, text: str) -> Draft | None:
    if not text.strip():
        return None
    failed = step.use is not None and step.use.failed
    concepts = ("gotcha",) if failed else ("how-it-works",)
    return _note(step, ObservationKind.DISCOVERY, title, first_sentences(text, NARRATIVE_LENGTH), concepts)


def _decided(step: Step, text: str) -> Draft | None:
    answers = _ASKED.findall(text[:5_000])
    response = step.use.response if step.use else None
    chosen = response.get("answers") if isinstance(response, Mapping) else None
    if isinstance(chosen, Mapping):
        answers = [(q, a) for q, a in chosen.items() if isinstance(q, str) and isinstance(a, str)]
    if not answers:
        return None
    question, answer = answers[0]
    return Draft(
        ObservationKind.DECISION,
        clip(f"{clip(question, 60)} {answer}", TITLE_LENGTH),
        facts=facts(*(f"{question} {answer}" for question, answer in answers)),
        concepts=("trade-off",),
        sources=(step.index,),
    )


def _other(step: Step, text: str) -> Draft | None:
    """A tool of an MCP server, or one that is not known."""
    use = step.use
    if use is None:
        return None
    lines = [line.strip() for line in lines_of(text) if any(c.isalnum() for c in line)]
    if not lines:
        return None
    name = use.tool
    if name.startswith("mcp__"):
        server, _, tool = name.removeprefix("mcp__").partition("__")
        name = f"{server} {tool}".strip()
    given = ", ".join(
        clip(str(value), _SCALAR_LENGTH)
        for value in list(use.input.values())[:4]
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and len(str(value)) <= _SCALAR_LENGTH
    )
    called = f"{name} ({given})" if given else name
    decisive = (first_error(lines) or lines[0]) if use.failed else lines[0]
    body = "; ".join(lines[:8]) if len(lines) > 1 else ""
    return _note(
        step,
        ObservationKind.DISCOVERY,
        f"{called}: {decisive}",
        clip(body, 300),
        ("gotcha",) if use.failed else ("how-it-works",),
    )


def _note(step: Step, kind: ObservationKind, title: str, narrative: str, concepts: tuple[str, ...]) -> Draft:
    return Draft(
        kind,
        clip(title, TITLE_LENGTH),
        narrative=narrative if clip(narrative, TITLE_LENGTH) != clip(title, TITLE_LENGTH) else "",
        concepts=concepts,
        sources=(step.index,),
    )
