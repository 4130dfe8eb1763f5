"""What a run read and searched: folded into one observation, so that looking around does not drown what was done."""

import re
from collections.abc import Iterable, Mapping, Sequence

from onlooker.domain.models import Draft, ObservationKind
from onlooker.providers.rules.step import Step, indexes
from onlooker.providers.rules.symbols import declared_in, opening_remark
from onlooker.providers.rules.text import (
    MAX_FACTS,
    NARRATIVE_LENGTH,
    TITLE_LENGTH,
    clip,
    counted,
    facts,
    lines_of,
    named,
)

READ_TOOLS = frozenset({"Read", "Grep", "Glob", "LS", "NotebookRead"})
ENOUGH_FILES = 3
"""Fewer files than this are no note of their own beside other work."""

_MOST_FILES = 20
_MOST_LINES = 400
_LONGEST_LOOK = 30_000


_CONTEXT_LINE = re.compile(r"(\S{1,300}\.\w{1,8})-\d+-")
"""How grep writes the lines around a hit."""


def observe_reading(steps: Iterable[Step], *, beside_work: bool) -> Draft | None:
    """One draft of all reads and searches that found something; None for too little beside other work."""
    told = [step for step in steps if is_reading(step)]
    files = list(dict.fromkeys(path for step in told for path in files_of(step)))
    reads = list(dict.fromkeys(path for step in told if _tool(step) == "Read" for path in step.paths))
    searches = [step for step in told if _tool(step) in ("Grep", "Glob")]
    if not files and not searches:
        return None
    if beside_work and len(files) < ENOUGH_FILES:
        return None
    title = clip(_title(reads, files, searches), TITLE_LENGTH)
    about = {path: text for step in told if (text := _about(step)) for path in step.paths[:1]}
    found = [fact for step in searches if (fact := _search(step)) != title]
    return Draft(
        ObservationKind.DISCOVERY,
        title,
        narrative=clip(f"Looked at {named(reads, 8)}.", NARRATIVE_LENGTH) if len(reads) > 3 else "",
        facts=facts(
            *(f"{path}: {text}" for path, text in list(about.items())[: MAX_FACTS - min(len(found), 2)]), *found
        ),
        concepts=("how-it-works",),
        files_read=tuple((reads or files)[:_MOST_FILES]),
        sources=indexes(told),
    )


def _about(step: Step) -> str:
    """What a file that was read says it is, and what it declares."""
    if step.use is None or step.use.tool != "Read" or not step.paths:
        return ""
    lines = lines_of(step.use.output[:_LONGEST_LOOK])[:_MOST_LINES]
    remark = clip(opening_remark(lines, step.paths[0]), 120)
    names = named((name for name in declared_in(lines, step.paths[0]) if name != remark), 5)
    return " – ".join(part for part in (remark, names) if part)


def is_reading(step: Step) -> bool:
    """Whether a step is a read or a search that found something."""
    if step.use is None or step.use.failed or step.use.tool not in READ_TOOLS:
        return False
    return bool(files_of(step)) if step.use.tool in ("Grep", "Glob") else step.use.tool == "Read" and bool(step.paths)


def files_of(step: Step) -> tuple[str, ...]:
    """The files that a read opened or a search found, at most 20."""
    use = step.use
    if use is None:
        return ()
    if use.tool == "Read":
        return step.paths[:_MOST_FILES]
    response = use.response
    names = response.get("filenames") if isinstance(response, Mapping) else None
    if isinstance(names, list) and names:
        return tuple(step.path(name) for name in names[:_MOST_FILES] if isinstance(name, str) and name)
    return tuple(
        dict.fromkeys(step.path(path) for line in use.output[:20_000].splitlines() if (path := _path_in(line)))
    )[:_MOST_FILES]


def _path_in(line: str) -> str:
    """The file at the start of a line of a search's output: `path`, `path:12:text`; empty where there is none."""
    head = line.strip().split(":", 1)[0]
    if len(line) > 1 and line[1:3] in (":\\", ":/"):
        head = ":".join(line.split(":", 2)[:2])
    if context := _CONTEXT_LINE.match(head):
        head = context[1]
    looks_like_one = "/" in head or "." in head.rpartition("/")[2][1:]
    return head if looks_like_one and " " not in head and len(head) < 300 else ""


def _title(reads: Sequence[str], files: Sequence[str], searches: Sequence[Step]) -> str:
    if reads:
        return f"Read {named(reads, 3)}"
    if len(searches) == 1:
        return _search(searches[0])
    patterns = named((f"`{clip(_pattern(step), 30)}`" for step in searches), 2)
    return f"Searched for {patterns}: {counted(len(files), 'file')}"


def _search(step: Step) -> str:
    return f"`{clip(_pattern(step), 60)}` is found in {named(files_of(step), 3)}"


def _pattern(step: Step) -> str:
    return next(
        (text for name in ("pattern", "query", "glob_pattern", "search_term") if (text := step.text(name))), "?"
    )


def _tool(step: Step) -> str:
    return step.use.tool if step.use else ""
