"""Forget: find what is to go, and remove it with all that was made of it, a page a transaction.

Its key, which is a hash, stays behind as a tombstone: when the same is sent or imported again it is not stored.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, and_, delete, func, or_, select, union, update

from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import Job, Scope
from onlooker.storage import dialect, jobs, search
from onlooker.storage.database import Connection
from onlooker.storage.observations import bring_back_superseded
from onlooker.storage.tables import (
    agent_events,
    messages,
    observation_generation_job_events,
    observation_generation_jobs,
    observation_sources,
    observations,
    server_sessions,
    tombstones,
    turns,
    utterances,
)
from onlooker.storage.tenancy import belongs, is_owned, owner

NOTES, EVENTS, SOURCES, TOMBSTONES = observations, agent_events, observation_sources, tombstones
JOBS, LINES = observation_generation_jobs, observation_generation_job_events
REASON = "what it is about was forgotten"

_BURIED = select(TOMBSTONES.c.key_hash).where(*is_owned(TOMBSTONES), dialect.among(TOMBSTONES.c.key_hash, "of_keys"))
_EVENT_TEXTS = (EVENTS.c.payload, EVENTS.c.metadata)
_NOTE_TEXTS = (NOTES.c.content, NOTES.c.concepts, NOTES.c.files_read, NOTES.c.files_modified, NOTES.c.metadata)


@dataclass(frozen=True, slots=True)
class _Place:
    """A column that tells of events: by what its rows are known, and what is put in a text's place."""

    table: Table
    column: Column[Any]
    key: Column[Any]
    instead: str | None


_PLACES = (
    _Place(JOBS, JOBS.c.tool_name, JOBS.c.id, None),
    _Place(JOBS, JOBS.c.last_error, JOBS.c.id, REASON),
    _Place(LINES, LINES.c.detail, LINES.c.id, REASON),
    _Place(messages, messages.c.tool_name, messages.c.seq, None),
    _Place(messages, messages.c.reason, messages.c.seq, REASON),
)
AT_ONCE = 500
Named = Mapping[Column[Any], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Selection:
    """What to forget: one of these. `before` is a time in epoch milliseconds.

    `text` means every note and event that contains it as it is written, in whatever case.
    """

    observation_ids: tuple[str, ...] = ()
    session_id: str | None = None
    text: str | None = None
    before: int | None = None
    events: bool = True
    observations: bool = True

    @property
    def chosen_by(self) -> int:
        """How many of these are given: only one is a selection that all agree on."""
        given = (self.observation_ids or None, self.session_id, self.text, self.before)
        return sum(each is not None for each in given)


@dataclass(frozen=True, slots=True)
class Page:
    """Ids of what a selection meets; empty when there is no more. The next page begins after the last ids."""

    observation_ids: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    last_observation_id: str = ""
    last_event_id: str = ""

    def __bool__(self) -> bool:
        return bool(self.observation_ids or self.event_ids)


NOTHING = Page()


@dataclass(frozen=True, slots=True)
class Gone:
    """What a transaction removed, and the jobs that it cancelled."""

    observations: int = 0
    events: int = 0
    cancelled: tuple[Job, ...] = ()


def find(conn: Connection, scope: Scope, wanted: Selection, *, limit: int, after: Page = NOTHING) -> Page:
    """The next `limit` notes and `limit` events of a selection, and the events that these notes were made from.

    There is no index by text, and none of events by time, so that a page looks through those that follow the one
    before only: what stays would be looked through for every page, and on Postgres what went too.
    """
    notes: list[str] = []
    events: list[str] = []
    if wanted.observations:
        met = select(NOTES.c.id).where(*belongs(NOTES, scope), _met(wanted, NOTES, _NOTE_TEXTS)).limit(limit)
        if wanted.text is not None:
            met = met.where(NOTES.c.id > after.last_observation_id).order_by(NOTES.c.id)
        notes = list(conn.execute(met).scalars())
    if wanted.events and not wanted.observation_ids:
        met = select(EVENTS.c.id).where(*belongs(EVENTS, scope), _met(wanted, EVENTS, _EVENT_TEXTS))
        if wanted.session_id is None:
            met = met.where(EVENTS.c.id > after.last_event_id).order_by(EVENTS.c.id)
        events = list(conn.execute(met.limit(limit)).scalars())
    last_note = notes[-1] if notes else after.last_observation_id
    last_event = events[-1] if events else after.last_event_id
    if wanted.before is None:
        linked = (*belongs(SOURCES, scope), SOURCES.c.observation_id.in_(notes), SOURCES.c.event_id.is_not(None))
        events += conn.execute(select(SOURCES.c.event_id).where(*linked)).scalars()
    return Page(tuple(notes), tuple(dict.fromkeys(events)), last_note, last_event)


def count(conn: Connection, scope: Scope, wanted: Selection) -> tuple[int, int]:
    """How many notes a selection meets, and how many events go: those it meets, and those these notes were made of."""
    met = select(NOTES.c.id).where(*belongs(NOTES, scope), _met(wanted, NOTES, _NOTE_TEXTS))
    notes = conn.execute(select(func.count()).select_from(met.subquery())).scalar_one() if wanted.observations else 0
    going = []
    if wanted.events and not wanted.observation_ids:
        going.append(select(EVENTS.c.id).where(*belongs(EVENTS, scope), _met(wanted, EVENTS, _EVENT_TEXTS)))
    if wanted.observations and wanted.before is None:
        linked = (*belongs(SOURCES, scope), SOURCES.c.observation_id.in_(met), SOURCES.c.event_id.is_not(None))
        going.append(select(SOURCES.c.event_id).where(*linked))
    if not going:
        return notes, 0
    return notes, conn.execute(select(func.count()).select_from(union(*going).subquery())).scalar_one()


def remove(conn: Connection, scope: Scope, page: Page, *, now: int) -> Gone:
    """Remove these notes and events with their links and search data; unfinished jobs of the events are cancelled.

    Other notes that were made from the events stay, without a link to them; those that a removed one replaced hold
    again.
    """
    cancelled = _cancel(conn, scope, page.event_ids)
    bring_back_superseded(conn, scope, page.observation_ids, now)
    search.remove_observations(conn, scope, page.observation_ids)
    conn.execute(delete(SOURCES).where(*belongs(SOURCES, scope), SOURCES.c.observation_id.in_(page.observation_ids)))
    going = (*belongs(NOTES, scope), NOTES.c.id.in_(page.observation_ids))
    notes = list(conn.execute(select(NOTES.c.generation_key).where(*going)).scalars())
    conn.execute(delete(NOTES).where(*going))
    gone = (*belongs(EVENTS, scope), EVENTS.c.id.in_(page.event_ids))
    keys = list(conn.execute(select(EVENTS.c.event_key).where(*gone)).scalars())
    # A prompt may come again under the name that the other side has for it.
    of_events = (*belongs(utterances, scope), utterances.c.event_id.in_(page.event_ids))
    others = conn.execute(select(utterances.c.event_key).where(*of_events)).scalars()
    bury(conn, scope, {*notes, *keys, *others}, now)
    unlinked = (*belongs(SOURCES, scope), SOURCES.c.event_id.in_(page.event_ids))
    conn.execute(update(SOURCES).where(*unlinked).values(event_id=None))
    conn.execute(delete(EVENTS).where(*gone))
    return Gone(len(notes), len(keys), tuple(cancelled))


def find_named(conn: Connection, scope: Scope, text: str) -> Named:
    """Where a text stands beside events and notes: in the names of tools, and in why jobs failed."""
    found = {}
    for place in _PLACES:
        keys = select(place.key).where(_is_of(place.table, scope), place.column.icontains(text, autoescape=True))
        found[place.column] = list(conn.execute(keys).scalars())
    return found


def remove_named(conn: Connection, scope: Scope, found: Named) -> None:
    """Put nothing, or that it was forgotten, where a text stands beside events and notes."""
    for place in _PLACES:
        for start in range(0, len(found[place.column]), AT_ONCE):
            keys = place.key.in_(found[place.column][start : start + AT_ONCE])
            conn.execute(
                update(place.table).where(_is_of(place.table, scope), keys).values({place.column: place.instead})
            )


def _is_of(table: Table, scope: Scope) -> ColumnElement[bool]:
    """Whether a row is of this tenant; a message of the queue is so by its job."""
    if table is messages:
        return messages.c.id.in_(select(JOBS.c.id).where(*belongs(JOBS, scope)))
    return and_(*belongs(table, scope))


def remove_session(conn: Connection, scope: Scope, session_id: str) -> bool:
    """Remove a session whose notes and events are gone, with its turns and jobs; False where some are there still."""
    for table in (EVENTS, NOTES):
        left = select(table.c.id).where(*belongs(table, scope), table.c.session_id == session_id).limit(1)
        if conn.execute(left).first() is not None:
            return False
    mine = select(JOBS.c.id).where(*belongs(JOBS, scope), JOBS.c.session_id == session_id)
    conn.execute(delete(LINES).where(*belongs(LINES, scope), LINES.c.job_id.in_(mine)))
    for table in (JOBS, turns):
        conn.execute(delete(table).where(*belongs(table, scope), table.c.session_id == session_id))
    conn.execute(delete(server_sessions).where(*belongs(server_sessions, scope), server_sessions.c.id == session_id))
    return True


def bury(conn: Connection, scope: Scope, hashes: Iterable[str], now: int) -> None:
    """Leave tombstones of these keys of events and generation keys of notes, which are hashes themselves."""
    rows = [(scope.team_id, scope.project_id, key, now) for key in sorted(hashes)]
    dialect.insert_new(conn, TOMBSTONES, ("team_id", "project_id", "key_hash", "created_at"), rows)


def buried(conn: Connection, scope: Scope, hashes: list[str]) -> set[str]:
    """Those of these keys, of events or of notes, that were forgotten."""
    return {key for (key,) in dialect.fetch(conn, _BURIED, {**owner(scope), "of_keys": hashes})}


def _met(wanted: Selection, table: Table, texts: Sequence[Column[str]]) -> ColumnElement[bool]:
    """The condition by which a selection meets the rows of notes or events."""
    if wanted.observation_ids:
        return table.c.id.in_(wanted.observation_ids)
    if wanted.session_id is not None:
        return table.c.session_id == wanted.session_id
    if wanted.text is not None:
        # In JSON some characters are written otherwise.
        written = {wanted.text, json.dumps(wanted.text, ensure_ascii=False)[1:-1]}
        return or_(*(column.icontains(each, autoescape=True) for column in texts for each in sorted(written)))
    return table.c.occurred_at < wanted.before


def _cancel(conn: Connection, scope: Scope, event_ids: Sequence[str]) -> list[Job]:
    """Cancel what is still to be done about these events alone; as they were before."""
    live = (
        select(*jobs.COLUMNS)
        .where(*belongs(JOBS, scope), JOBS.c.source_type == "event", JOBS.c.source_id.in_(event_ids), jobs.IS_LIVE)
        .order_by(JOBS.c.id)
    )
    jobs.lock_all(conn, [jobs.read_job(row) for row in conn.execute(live)])
    # Read again under the lock: one that ended meanwhile has no more to do.
    cancelled = [jobs.read_job(row) for row in conn.execute(live)]
    if cancelled:
        jobs.finish(conn, cancelled, JobStatus.CANCELLED, dialect.read_clock(conn), error=REASON)
    return cancelled
