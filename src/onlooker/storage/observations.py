"""Observations and what they were made from."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import Row, Text, bindparam, delete, select, update

from onlooker.domain.errors import NotFound
from onlooker.domain.models import NewObservation, NewSource, Observation, ObservationKind, Scope, Source
from onlooker.domain.similarity import Said
from onlooker.host import new_id
from onlooker.storage import dialect, search
from onlooker.storage.analyser import ANALYSER_VERSION
from onlooker.storage.database import Connection
from onlooker.storage.given import Given
from onlooker.storage.tables import observation_sources, observations
from onlooker.storage.tenancy import is_listed, is_owned, owner

OBSERVATIONS = observations
SOURCES = observation_sources
NAMES = tuple("metadata" if f.name == "metadata_json" else f.name for f in fields(Observation))
COLUMNS = [OBSERVATIONS.c[name] for name in NAMES]
SOURCE_COLUMNS = [SOURCES.c[f.name] for f in fields(Source)]
LISTS = frozenset({"facts", "concepts", "files_read", "files_modified"})
"""Columns that hold a JSON list of texts."""

_values_of = attrgetter(*(f.name for f in fields(Observation)))
_source_values = attrgetter(*(f.name for f in fields(NewSource)))
_SOURCE_NAMES = (
    "id", "team_id", "project_id", "observation_id", *(f.name for f in fields(NewSource)), "created_at"
)  # fmt: skip
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_BY_IDS = select(*COLUMNS).where(*is_owned(OBSERVATIONS), dialect.among(OBSERVATIONS.c.id, "of_ids"))
_BY_KEYS = select(*COLUMNS).where(*is_owned(OBSERVATIONS), dialect.among(OBSERVATIONS.c.generation_key, "of_keys"))
_SOURCES = (
    select(*SOURCE_COLUMNS)
    .where(*is_owned(SOURCES), dialect.among(SOURCES.c.observation_id, "of_ids"))
    .order_by(SOURCES.c.id)
)
_OF_EVENT = (
    select(*COLUMNS, *(column.label(f"source_{column.name}") for column in SOURCE_COLUMNS))
    .join(SOURCES, (SOURCES.c.observation_id == OBSERVATIONS.c.id))
    .where(*is_owned(OBSERVATIONS), *is_owned(SOURCES), SOURCES.c.event_id == bindparam("of_event"))
    .order_by(OBSERVATIONS.c.created_at, OBSERVATIONS.c.id)
)
_OF_JOB = (
    select(*COLUMNS)
    .where(*is_owned(OBSERVATIONS), OBSERVATIONS.c.created_by_job_id == bindparam("of_job"))
    .order_by(OBSERVATIONS.c.created_at, OBSERVATIONS.c.id)
)
_OF_SESSION = (
    select(*COLUMNS)
    .where(*is_owned(OBSERVATIONS), OBSERVATIONS.c.session_id == bindparam("of_session"))
    .order_by(OBSERVATIONS.c.occurred_at, OBSERVATIONS.c.id)
    .limit(bindparam("most"))
    .offset(bindparam("skipped"))
)
_RECENT = (
    select(*COLUMNS)
    .where(*is_listed(OBSERVATIONS), OBSERVATIONS.c.hidden.is_(False))
    .order_by(OBSERVATIONS.c.occurred_at.desc(), OBSERVATIONS.c.id.desc())
    .limit(bindparam("most"))
    .offset(bindparam("skipped"))
)
_SUPERSEDE = (
    update(OBSERVATIONS)
    .where(
        *is_owned(OBSERVATIONS),
        dialect.among(OBSERVATIONS.c.id, "of_ids"),
        OBSERVATIONS.c.superseded_by.is_(None),
        OBSERVATIONS.c.id != bindparam("by_id"),
    )
    .values(superseded_by=bindparam("by_id"), updated_at=bindparam("at"))
)
_LEAVING = OBSERVATIONS.alias()
_BRING_BACK = (
    update(OBSERVATIONS)
    .where(
        *is_owned(OBSERVATIONS),
        # What replaces a note is of its session, by which rows are found.
        OBSERVATIONS.c.session_id.in_(
            select(_LEAVING.c.session_id).where(*is_owned(_LEAVING), dialect.among(_LEAVING.c.id, "by_ids"))
        ),
        dialect.among(OBSERVATIONS.c.superseded_by, "by_ids"),
    )
    .values(superseded_by=None, updated_at=bindparam("at"))
    .returning(OBSERVATIONS.c.id)
)
_DELETE = delete(OBSERVATIONS).where(*is_owned(OBSERVATIONS), OBSERVATIONS.c.id == bindparam("of_id"))
_DELETE_SOURCES = delete(SOURCES).where(*is_owned(SOURCES), SOURCES.c.observation_id == bindparam("of_id"))


def store_observations(conn: Connection, scope: Scope, items: Sequence[NewObservation], now: int) -> list[Observation]:
    """Store observations with their sources and make them findable; the stored rows, in the order given.

    One whose generation key is stored changes nothing, and the stored one stands in its place.
    """
    rows: dict[str, Observation] = {}
    for item in items:
        rows.setdefault(item.generation_key, _observation(scope, item, now))
    wanted = list(rows)
    written = dialect.insert_new(
        conn,
        OBSERVATIONS,
        (*NAMES, "analyser_version"),
        [(*_values(rows[key]), ANALYSER_VERSION) for key in sorted(rows)],
    )
    stored = rows if written == len(rows) else _by_keys(conn, scope, wanted)
    new = [rows[key] for key in wanted if stored[key].id == rows[key].id]
    fresh = {observation.id for observation in new}
    add_sources(conn, scope, [(item.id, item.sources) for item in items if item.id in fresh], now)
    if new:
        search.index_observations(conn, new)
    return [stored[item.generation_key] for item in items]


def get_observation(conn: Connection, scope: Scope, observation_id: str) -> Observation:
    """An observation of this tenant. Raises `NotFound`."""
    found = observations_by_ids(conn, scope, [observation_id])
    if not found:
        raise NotFound("no such observation")
    return found[0]


def observations_by_ids(conn: Connection, scope: Scope, observation_ids: Sequence[str]) -> list[Observation]:
    """Those of these observations that are stored and of this tenant, in the order of the ids."""
    rows = conn.execute(_BY_IDS, {**owner(scope), "of_ids": observation_ids})
    found = {observation.id: observation for observation in map(read_observation, rows)}
    return [found[each] for each in dict.fromkeys(observation_ids) if each in found]


def observations_of_event(conn: Connection, scope: Scope, event_id: str) -> list[tuple[Observation, Source]]:
    """What was made from an event, each with the link that says so, oldest first."""
    rows = conn.execute(_OF_EVENT, {**owner(scope), "of_event": event_id})
    return [(read_observation(row[: len(COLUMNS)]), Source(*row[len(COLUMNS) :])) for row in rows]


def observations_of_job(conn: Connection, scope: Scope, job_id: str) -> list[Observation]:
    """What a job made, oldest first."""
    return [read_observation(row) for row in conn.execute(_OF_JOB, {**owner(scope), "of_job": job_id})]


def observations_of_session(
    conn: Connection, scope: Scope, session_id: str, *, limit: int, offset: int = 0
) -> list[Observation]:
    """A session's observations, as they happened."""
    values = {**owner(scope), "of_session": session_id, "most": limit, "skipped": offset}
    return [read_observation(row) for row in conn.execute(_OF_SESSION, values)]


def recent_observations(conn: Connection, scope: Scope, *, limit: int, offset: int = 0) -> list[Observation]:
    """A project's observations that are not hidden, what happened last first."""
    values = {**owner(scope), "most": limit, "skipped": offset}
    return [read_observation(row) for row in conn.execute(_RECENT, values)]


class _Statements:
    """What is done for many sessions at once, built once for a kind of database."""

    def __init__(self, backend: str) -> None:
        self.sessions = Given(backend, id=Text())
        lately = (
            select(OBSERVATIONS.c.id, OBSERVATIONS.c.kind, OBSERVATIONS.c.title, OBSERVATIONS.c.facts)
            .add_columns(OBSERVATIONS.c.occurred_at)
            .where(
                *is_owned(OBSERVATIONS),
                OBSERVATIONS.c.session_id == self.sessions.c.id,
                OBSERVATIONS.c.superseded_by.is_(None),
                OBSERVATIONS.c.hidden.is_(False),
                OBSERVATIONS.c.kind != ObservationKind.SUMMARY,
                OBSERVATIONS.c.kind != ObservationKind.MANUAL,
            )
            .order_by(OBSERVATIONS.c.occurred_at.desc(), OBSERVATIONS.c.id.desc())
            .limit(bindparam("most"))
            .correlate(self.sessions.table)
            .subquery("lately")
        )
        rows = dialect.rows_as_json(
            backend, lately.c.occurred_at, lately.c.id, lately.c.kind, lately.c.title, lately.c.facts
        )
        self.said = select(self.sessions.c.id, select(rows).scalar_subquery())


@cache
def _statements_for(backend: str) -> _Statements:
    return _Statements(backend)


def said_lately(conn: Connection, scope: Scope, session_ids: Collection[str], *, limit: int) -> dict[str, list[Said]]:
    """What the latest observations of each session said, oldest first; summaries and what is superseded aside."""
    if not session_ids:
        return {}
    statements = _statements_for(conn.dialect.name)
    given = statements.sessions([(session_id,) for session_id in session_ids], **owner(scope), most=limit)
    return {
        session_id: [_said(row) for row in sorted(json.loads(rows or "[]"))]
        for session_id, rows in dialect.fetch(conn, statements.said, given)
    }


def _said(row: tuple[int, str, str, str, str]) -> Said:
    _, observation_id, kind, title, facts = row
    return Said(observation_id, ObservationKind(kind), title, tuple(json.loads(facts)))


def supersede(conn: Connection, scope: Scope, observation_ids: Sequence[str], *, by_id: str, now: int) -> int:
    """Mark observations as corrected or replaced by another; how many were not yet.

    None of them is removed. They are found only where a search asks for what is superseded, and last.
    """
    given = {**owner(scope), "of_ids": list(observation_ids), "by_id": by_id, "at": now}
    marked = conn.execute(_SUPERSEDE, given).rowcount
    if marked:
        search.set_superseded(conn, scope, [each for each in observation_ids if each != by_id])
    return marked


def bring_back_superseded(conn: Connection, scope: Scope, by_ids: Sequence[str], now: int) -> None:
    """Let what these notes replaced hold again: before they go, or since they are wrong."""
    given = {**owner(scope), "by_ids": list(by_ids), "at": now}
    brought = list(conn.execute(_BRING_BACK, given).scalars())
    if brought:
        search.set_superseded(conn, scope, brought, superseded=False)


def add_sources(conn: Connection, scope: Scope, sources: Iterable[tuple[str, Sequence[NewSource]]], now: int) -> None:
    """Link stored observations, by id, to what else they are about; a link that is there stays as it is."""
    owned = scope.team_id, scope.project_id
    links = [(observation_id, *_source_values(source)) for observation_id, of_one in sources for source in of_one]
    dialect.insert_new(
        conn,
        SOURCES,
        _SOURCE_NAMES,
        [(new_id(), *owned, *link, now) for link in links],
    )


def sources_of_observations(
    conn: Connection, scope: Scope, observation_ids: Iterable[str]
) -> dict[str, tuple[Source, ...]]:
    """What each of these observations was made from, by observation id."""
    found: dict[str, tuple[Source, ...]] = {}
    for row in conn.execute(_SOURCES, {**owner(scope), "of_ids": list(observation_ids)}):
        source = Source(*row)
        found[source.observation_id] = (*found.get(source.observation_id, ()), source)
    return found


def delete_observation(conn: Connection, scope: Scope, observation_id: str, now: int) -> None:
    """Delete an observation, its links and what search knows of it. Raises `NotFound`."""
    get_observation(conn, scope, observation_id)
    bring_back_superseded(conn, scope, [observation_id], now)
    search.remove_observations(conn, scope, [observation_id])
    values = {**owner(scope), "of_id": observation_id}
    conn.execute(_DELETE_SOURCES, values)
    conn.execute(_DELETE, values)


def read_observation(row: Row[Any] | Sequence[Any]) -> Observation:
    """The observation of a row that was selected with `COLUMNS`."""
    values: dict[str, Any] = {}
    for name, value in zip(NAMES, row, strict=True):
        values[name] = tuple(json.loads(value)) if name in LISTS else value
    values["metadata_json"] = values.pop("metadata")
    values["kind"] = ObservationKind(values["kind"])
    values["hidden"] = bool(values["hidden"])
    return Observation(**values)


def _by_keys(conn: Connection, scope: Scope, generation_keys: Sequence[str]) -> dict[str, Observation]:
    rows = conn.execute(_BY_KEYS, {**owner(scope), "of_keys": generation_keys})
    return {observation.generation_key: observation for observation in map(read_observation, rows)}


def _observation(scope: Scope, item: NewObservation, now: int) -> Observation:
    draft = item.draft
    return Observation(
        id=item.id,
        team_id=scope.team_id,
        project_id=scope.project_id,
        session_id=item.session_id,
        kind=draft.kind,
        title=draft.title,
        subtitle=draft.subtitle,
        narrative=draft.narrative,
        facts=draft.facts,
        concepts=draft.concepts,
        files_read=draft.files_read,
        files_modified=draft.files_modified,
        content=item.content,
        generation_key=item.generation_key,
        created_by_job_id=item.created_by_job_id,
        provider=item.provider,
        model=item.model,
        prompt_version=item.prompt_version,
        platform_source=item.platform_source,
        metadata_json=item.metadata_json,
        hidden=False,
        superseded_by=None,
        occurred_at=item.occurred_at,
        created_at=item.created_at,
        updated_at=now,
    )


def _values(observation: Observation) -> list[Any]:
    """The row's values in the order of `NAMES`."""
    return [_encode(value) if isinstance(value, tuple) else value for value in _values_of(observation)]
