"""Generation jobs as an operator sees them: page by page, with what they are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, func, select, union_all

from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import Job, Scope
from onlooker.storage.database import Connection
from onlooker.storage.jobs import COLUMNS, JOBS, read_job
from onlooker.storage.tables import agent_events
from onlooker.storage.tenancy import belongs

LATEST_FIRST = (JOBS.c.created_at.desc(), JOBS.c.id.desc())


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a team to list; None or nothing means no restriction.

    `since` is a creation time in epoch milliseconds.
    """

    project_id: str | None = None
    status: JobStatus | None = None
    source_types: tuple[str, ...] = ()
    since: int | None = None


def list_jobs(conn: Connection, team_id: str, wanted: JobFilter, *, limit: int, offset: int) -> tuple[list[Job], int]:
    """A page of a team's jobs, the latest first, and how many there are in all."""
    conditions = [JOBS.c.team_id == team_id]
    if wanted.project_id is not None:
        conditions.append(JOBS.c.project_id == wanted.project_id)
    if wanted.source_types:
        conditions.append(JOBS.c.source_type.in_(wanted.source_types))
    if wanted.since is not None:
        conditions.append(JOBS.c.created_at >= wanted.since)
    if wanted.status is not None:
        conditions.append(JOBS.c.status == wanted.status)
    # A team's jobs are in their order in the index by status alone, so each status is asked for by its name.
    is_by_status = wanted.status is None and wanted.project_id is None
    if is_by_status:
        conditions.append(JOBS.c.status.in_(JobStatus))
    total = conn.execute(select(func.count()).select_from(JOBS).where(*conditions)).scalar_one()
    if is_by_status:
        conditions = [JOBS.c.id.in_(_latest(conditions, limit + offset))]
    page = select(*COLUMNS).where(*conditions).order_by(*LATEST_FIRST)
    return [read_job(row) for row in conn.execute(page.limit(limit).offset(offset))], total


def _latest(conditions: Sequence[ColumnElement[bool]], most: int) -> CompoundSelect[Any]:
    """The ids of the latest jobs of each status: the latest of all are among them."""
    asked = (
        select(JOBS.c.id).where(*conditions, JOBS.c.status == status).order_by(*LATEST_FIRST).limit(most)
        for status in JobStatus
    )
    return union_all(*(select(each.subquery()) for each in asked))


def payloads_of(conn: Connection, scope: Scope, job: Job) -> list[str]:
    """The stored payloads, as JSON text, that an event job is about; for an administrator who asks."""
    wanted = select(agent_events.c.payload).where(
        *belongs(agent_events, scope),
        agent_events.c.id == job.source_id,
    )
    return list(conn.execute(wanted).scalars())
