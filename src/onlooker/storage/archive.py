"""A project's rows as they are, page by page, and back into a database: what an export holds.

What the database makes itself is left out and made anew: the search index, the queue's messages, numbers of rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, select, tuple_

from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import Project, Scope, Team
from onlooker.storage import accounts, dialect, observations, search_index, tables
from onlooker.storage.analyser import ANALYSER_VERSION
from onlooker.storage.database import Connection
from onlooker.storage.tenancy import belongs

Row = dict[str, Any]

KEYS: Mapping[Table, tuple[str, ...]] = {
    tables.project_places: ("place_hash",),
    tables.server_sessions: ("id",),
    tables.turns: ("id",),
    tables.agent_events: ("id",),
    tables.utterances: ("event_key",),
    tables.session_transcripts: ("session_id",),
    tables.observation_generation_jobs: ("id",),
    tables.observation_generation_job_events: ("id",),
    tables.observations: ("id",),
    tables.observation_sources: ("id",),
    tables.observation_feedback: ("observation_id", "reader"),
    tables.tombstones: ("key_hash",),
    tables.retention: ("project_id",),
    tables.usage_daily: ("day", "provider", "model"),
    tables.usage_caps: ("period", "unit"),
    tables.import_offsets: ("path_hash",),
}
"""The tables of a project, parents before their children, each with what tells its rows apart."""

BY_NAME = {table.name: table for table in KEYS}

AT_REST = {"lease_token": None, "lease_until": None, "leased_by": None, "rung_at": 0, "ring_wait_ms": 0}
"""What a job that nobody holds has in these columns: a worker's hold does not outlive its database."""


def page(conn: Connection, scope: Scope, table: Table, after: Row | None, *, limit: int) -> list[Row]:
    """The next rows of a table behind one of them, in the order of their keys."""
    columns = [table.c[name] for name in KEYS[table]]
    rows = select(table).where(*_of_project(table, scope)).order_by(*columns).limit(limit)
    if after is not None:
        rows = rows.where(tuple_(*columns) > tuple_(*(after[name] for name in KEYS[table])))
    return [dict(row) for row in conn.execute(rows).mappings()]


def told(table: Table, row: Row) -> Row:
    """A row as it is written down."""
    if table is tables.observation_generation_jobs and row["status"] == JobStatus.PROCESSING:
        row = {**row, "status": str(JobStatus.QUEUED)}
    if table is tables.observation_generation_jobs:
        row = {**row, **AT_REST}
    numbered = table.autoincrement_column
    return {name: value for name, value in row.items() if numbered is None or name != numbered.name}


def insert(conn: Connection, table: Table, rows: Sequence[Row]) -> int:
    """Store rows as they were told; those whose keys are there change nothing. How many were new."""
    if table is tables.observation_generation_job_events:
        rows = _without_history(conn, rows)
    if table is tables.observations:
        rows = _new_notes(conn, rows)
    names = tuple(rows[0]) if rows else ()
    count = dialect.insert_new(conn, table, names, [tuple(row[name] for name in names) for row in rows])
    if table is tables.observations and rows:
        _index(conn, rows)
    return count


def adopt(conn: Connection, team: Team, projects: Sequence[Project]) -> dict[str, str]:
    """Make a team and its projects as they are told, in a database that has neither; else find those of their names.

    The ids that hold here, by those that were told.
    """
    ours, _ = accounts.open_team(conn, team)
    found = {team.id: ours.id}
    for project in projects:
        wanted = Project(project.id, ours.id, project.name, project.created_at)
        found[project.id] = accounts.open_project(conn, wanted)[0].id
    return found


def _of_project(table: Table, scope: Scope) -> tuple[ColumnElement[bool], ...]:
    if table is tables.usage_caps:
        return table.c.team_id == scope.team_id, table.c.reach == scope.project_id
    return belongs(table, scope)


def _without_history(conn: Connection, rows: Sequence[Row]) -> list[Row]:
    """Those lines of history whose jobs have none yet: a line has no key of its own."""
    lines = tables.observation_generation_job_events
    known = select(lines.c.job_id).where(lines.c.job_id.in_({row["job_id"] for row in rows})).distinct()
    there = set(conn.execute(known).scalars())
    return [row for row in rows if row["job_id"] not in there]


def _new_notes(conn: Connection, rows: Sequence[Row]) -> list[Row]:
    notes = tables.observations
    keys = {(row["project_id"], row["generation_key"]) for row in rows}
    known = select(notes.c.project_id, notes.c.generation_key).where(
        tuple_(notes.c.project_id, notes.c.generation_key).in_(list(keys))
    )
    there = {tuple(row) for row in conn.execute(known)}
    new = [row for row in rows if (row["project_id"], row["generation_key"]) not in there]
    return [{**row, "analyser_version": ANALYSER_VERSION} for row in new]


def _index(conn: Connection, rows: Sequence[Row]) -> None:
    """Make new notes findable that readers may find."""
    scopes = {Scope(row["team_id"], row["project_id"]) for row in rows}
    shown = [row["id"] for row in rows if not row["hidden"] and row["superseded_by"] is None]
    for scope in scopes:
        search_index.index_observations(conn, observations.observations_by_ids(conn, scope, shown))
