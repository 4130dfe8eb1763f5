"""What the next session should know of a project, as text within a budget of tokens.

The order of importance: what was left open, what the latest sessions came to, what was decided or found out the hard
way, and what was done to which file. Each part has its share of the budget; what it leaves goes to the parts after it,
and then to all. Nothing is told twice, and the same notes give the same text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from onlooker.domain.models import Observation, ObservationKind, Prompt, Scope
from onlooker.domain.tokens import estimate_tokens
from onlooker.services.rendering import clip, moment, prompt_text
from onlooker.storage import accounts, digest, sessions
from onlooker.storage.database import Connection, Database

DEFAULT_BUDGET = 2_000
LEAST_BUDGET, MOST_BUDGET = 200, 20_000
"""Tokens, by `domain.tokens`. The frame of the text takes 110 of them, a line about 60."""

LATEST = 400
MOST_OF_SESSION = 300
GOTCHAS = frozenset({"gotcha", "trade-off"})
"""Concepts that do."""
MOST_WEIGHTY = 40
MOST_OTHERS = 40
MOST_FILES = 12
NOTES_OF_FILE = 2
MOST_OPEN = 3
MOST_PROMPTS = 20
LONGEST_LINE = 320
"""Characters of what one line tells."""

HEAD = (
    "Notes of earlier sessions in this project, newest first in each part. They tell what was so then: check before "
    "you rely on one. Read one whole by its id, or search for more, with the tools of onlooker."
)


@dataclass(frozen=True, slots=True)
class SessionContext:
    """`markdown` is for a person, `text` the same marked for a model; both empty where there is nothing to tell.

    `tokens` is what `text` costs, never more than the budget; `note_ids` are the notes that it tells of, in order.
    """

    text: str = ""
    markdown: str = ""
    tokens: int = 0
    note_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the text, the ids of the notes that it tells of, and whether it is the one line of its one note."""

    text: str
    note_ids: tuple[str, ...] = ()
    is_own: bool = False

    @property
    def marks(self) -> set[str]:
        """What no other line may have."""
        return {self.text, *self.note_ids} if self.is_own else {self.text}


@dataclass(slots=True)
class _Part:
    """A part of the text: its title, its share of the budget in percent, and its lines."""

    title: str
    share: int
    lines: list[_Line]
    taken: list[_Line] = field(default_factory=list)


class SessionContexts:
    """Makes contexts. Every method raises `NotFound` for another tenant's project, and `StorageUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_project(self, scope: Scope, *, budget: int = DEFAULT_BUDGET) -> SessionContext:
        """What a new session should know."""

        def work(conn: Connection) -> SessionContext:
            latest = digest.latest_notes(conn, scope, limit=LATEST)
            weighty = digest.weighty_notes(conn, scope, limit=MOST_WEIGHTY)
            return _fitted(_parts_of_project(latest, weighty), accounts.project_name(conn, scope), budget)

        return await self._database.read(work)

    async def of_compacted(
        self, scope: Scope, content_session_id: str, *, budget: int = DEFAULT_BUDGET
    ) -> SessionContext:
        """What a session that was compacted did so far, then what else a session should know."""

        def work(conn: Connection) -> SessionContext:
            session = sessions.find_by_content(conn, scope, content_session_id)
            own: list[Observation] = []
            asked: list[Prompt] = []
            if session is not None:
                own = digest.latest_notes(conn, scope, limit=MOST_OF_SESSION, session_id=session.id)
                asked = digest.latest_prompts(conn, scope, session.id, limit=MOST_PROMPTS)
            latest = digest.latest_notes(conn, scope, limit=LATEST)
            others = [note for note in latest if session is None or note.session_id != session.id]
            parts = [*_parts_of_session(own, asked), *_parts_of_project(others, [])]
            return _fitted(parts, accounts.project_name(conn, scope), budget)

        return await self._database.read(work)

    async def of_notes(self, scope: Scope, notes: Sequence[Observation], *, budget: int) -> SessionContext:
        """These notes, the first the most important."""
        name = await self._database.read(lambda conn: accounts.project_name(conn, scope))
        return _fitted([_Part("Notes that fit", 100, [_told(note) for note in _each_once(notes)])], name, budget)


def _parts_of_project(latest: Sequence[Observation], weighty: Sequence[Observation]) -> list[_Part]:
    summaries = list(_each_once(_last_of_sessions(note for note in latest if note.kind is ObservationKind.SUMMARY)))
    marked = [note for note in latest if GOTCHAS & set(note.concepts) and note.kind is not ObservationKind.SUMMARY]
    kept = {note.id: note for note in (*weighty, *marked)}
    by_weight = sorted(kept.values(), key=lambda note: (-note.occurred_at, note.id))
    others = [note for note in latest if _is_of_no_file(note) and note.id not in kept][:MOST_OTHERS]
    return [
        _Part("Open next steps", 15, list(_open_steps(summaries))),
        _Part("Latest sessions", 35, [_summed_up(note) for note in summaries]),
        _Part("Decisions and things to know", 30, [_told(note) for note in _each_once(by_weight)]),
        _Part("Recent work by file", 20, list(_by_file(latest, set(kept)))),
        _Part("What else was found", 5, [_told(note) for note in _each_once(others)]),
    ]


def _parts_of_session(own: Sequence[Observation], asked: Sequence[Prompt]) -> list[_Part]:
    """What a session did: what was asked, what came of it, and single notes, each the latest first."""
    turns = [note for note in own if note.kind is ObservationKind.SUMMARY]
    single = [note for note in own if note.kind is not ObservationKind.SUMMARY]
    prompts = [_Line(f"- {_clip(prompt_text(prompt))}") for prompt in reversed(asked)]
    return [
        _Part("What was asked in this session before it was compacted", 15, prompts),
        _Part("What it came to", 35, [_summed_up(note) for note in turns]),
        _Part("What was done and found", 25, [_told(note) for note in single]),
    ]


def _is_of_no_file(note: Observation) -> bool:
    return note.kind is not ObservationKind.SUMMARY and not note.files_modified


def _each_once(notes: Iterable[Observation]) -> Iterator[Observation]:
    """The notes without those that tell what an earlier one of them told already."""
    seen: set[tuple[str, ...]] = set()
    for note in notes:
        told = (note.title, *(note.facts or (note.narrative,)))
        if told not in seen:
            seen.add(told)
            yield note


def _last_of_sessions(summaries: Iterable[Observation]) -> Iterator[Observation]:
    """The latest summary of each session; one without a session stands for itself."""
    seen: set[str] = set()
    for note in summaries:
        session = note.session_id or note.id
        if session not in seen:
            seen.add(session)
            yield note


def _fact(note: Observation, *names: str) -> str:
    """What a summary says under the first of these names that it has."""
    for name in names:
        for fact in note.facts:
            if fact.startswith(f"{name}: "):
                return fact.removeprefix(f"{name}: ")
    return ""


def _open_steps(summaries: Sequence[Observation]) -> Iterator[_Line]:
    found: set[str] = set()
    for note in summaries:
        left = _fact(note, "next_steps")
        if left and left not in found and len(found) < MOST_OPEN:
            found.add(left)
            yield _Line(f"- {_clip(left)} ({moment(note.occurred_at)}, {note.id})", (note.id,))


def _summed_up(note: Observation) -> _Line:
    outcome = _fact(note, "completed", "learned") or note.narrative
    told = f"{note.title}: {outcome}" if outcome and outcome != note.title else note.title
    return _Line(f"- {moment(note.occurred_at)} {_clip(told)} ({note.id})", (note.id,), is_own=True)


def _told(note: Observation) -> _Line:
    more = next(iter(note.facts), "") or note.narrative
    told = f"{note.title}: {more}" if more and more != note.title else note.title
    text = f"- {moment(note.occurred_at)} {note.type_shown}: {_clip(told)} ({note.id})"
    return _Line(text, (note.id,), is_own=True)


def _by_file(latest: Sequence[Observation], told: set[str]) -> Iterator[_Line]:
    """Files that were changed, the latest first, each with what was done to it last."""
    files: dict[str, list[Observation]] = {}
    for note in latest:
        if note.kind is ObservationKind.SUMMARY or note.id in told:
            continue
        for path in note.files_modified:
            if path in files or len(files) < MOST_FILES:
                files.setdefault(path, []).append(note)
    for path, notes in files.items():
        last = notes[:NOTES_OF_FILE]
        titles = "; ".join(dict.fromkeys(_clip(note.title, LONGEST_LINE // 3) for note in last))
        text = f"- {_clip(path, LONGEST_LINE // 2)}: {titles} ({last[0].id})"
        yield _Line(text, tuple(note.id for note in last))


def _clip(text: str, length: int = LONGEST_LINE) -> str:
    """The text cut to a line; marks of ours in it are no marks any more."""
    return clip(text.replace("<onlooker-", "<onlooker ").replace("</onlooker-", "</onlooker "), length)


def _fitted(parts: Sequence[_Part], project: str, budget: int) -> SessionContext:
    """As many lines as fit, the first parts first."""
    shares = sum(part.share for part in parts if part.lines)
    if not shares:
        return SessionContext()
    frame = estimate_tokens(_marked(_laid_out(project, [part for part in parts if part.lines], empty=True)))
    room = budget - frame
    seen: set[str] = set()
    carried = 0.0
    for part in parts:
        allowed = (room * part.share / shares + carried) if part.lines else carried
        carried = _take(part, allowed, seen)
    rest = carried
    for part in parts:
        rest = _take(part, rest, seen)
    while True:
        markdown = _laid_out(project, [part for part in parts if part.taken])
        text = _marked(markdown)
        tokens = estimate_tokens(text)
        last = next((part for part in reversed(parts) if part.taken), None)
        if last is None:
            return SessionContext()
        if tokens <= budget:
            ids = dict.fromkeys(note_id for part in parts for line in part.taken for note_id in line.note_ids)
            return SessionContext(text, markdown, tokens, tuple(ids))
        last.taken.pop()


def _take(part: _Part, allowed: float, seen: set[str]) -> float:
    """Move lines that fit from the part's lines to what is taken; what is left of the room."""
    left: list[_Line] = []
    for line in part.lines:
        if line.marks & seen:
            continue
        cost = estimate_tokens(line.text + "\n")
        if cost <= allowed and not left:
            allowed -= cost
            part.taken.append(line)
            seen |= line.marks
        else:
            left.append(line)
    part.lines = left
    return allowed


def _laid_out(project: str, parts: Sequence[_Part], *, empty: bool = False) -> str:
    blocks = [f"# {_clip(project, 80)}: what was so far", HEAD]
    blocks += [
        "\n".join([f"## {part.title}", *(() if empty else (line.text for line in part.taken))]) for part in parts
    ]
    return "\n\n".join(blocks)


def _marked(markdown: str) -> str:
    """The text as a model gets it: marked, so that it is never taken for something that happened."""
    return f"<onlooker-context>\n{markdown}\n</onlooker-context>"
