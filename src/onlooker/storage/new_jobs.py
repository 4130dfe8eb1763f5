"""Generation jobs on their way in: made from a source, written with their first line of history."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import select

from onlooker.domain import keys
from onlooker.domain.jobs import JobKind, JobStatus
from onlooker.domain.models import Event, Job, Scope, Turn
from onlooker.storage import dialect, jobs
from onlooker.storage.database import Connection
from onlooker.storage.tables import observation_generation_job_events, observation_generation_jobs
from onlooker.storage.tenancy import belongs, is_owned, owner

WRITTEN = (
    "id",
    "team_id",
    "project_id",
    "session_id",
    "seq",
    "kind",
    "status",
    "source_type",
    "source_id",
    "source_bytes",
    "tool_name",
    "api_key_id",
    "max_attempts",
    "created_at",
    "updated_at",
)
"""The columns that a new job differs in; the others have their defaults."""

QUEUED = "queued"

_values = attrgetter(*(f"{name}.value" if name in {"kind", "status"} else name for name in WRITTEN))
"""The values of a job's row; words as plain texts, which a driver takes without asking what they are."""

_BY_IDS = select(*jobs.COLUMNS).where(*is_owned(jobs.JOBS), dialect.among(jobs.JOBS.c.id, "of_ids"))


class Source(NamedTuple):
    """What a job makes observations of; one source has one job, for ever."""

    kind: JobKind
    type: str
    id: str

    def job_id(self, scope: Scope) -> str:
        """The id of the source's job."""
        return keys.job_id(self.kind, scope.team_id, scope.project_id, self.type, self.id)


def source_of(event: Event, turn: Turn | None) -> Source:
    """What an event's job is about: the turn that it ends, the batch that it came in, else itself."""
    if event.batch_id is not None:
        return Source(JobKind.EVENT_BATCH, "event-batch", event.batch_id)
    if turn is not None:
        return Source(JobKind.SUMMARY, "turn", turn.id)
    return Source(JobKind.EVENT, "event", event.id)


def new_job(
    source: Source,
    scope: Scope,
    *,
    session_id: str | None,
    seq: int | None,
    max_attempts: int,
    now: int,
    api_key_id: str | None = None,
    tool_name: str | None = None,
    source_bytes: int = 0,
) -> Job:
    """A queued job as its row will be; its id follows from its source."""
    return Job(
        id=source.job_id(scope),
        team_id=scope.team_id,
        project_id=scope.project_id,
        session_id=session_id,
        seq=seq,
        kind=source.kind,
        status=JobStatus.QUEUED,
        source_type=source.type,
        source_id=source.id,
        source_bytes=source_bytes,
        tool_name=tool_name,
        api_key_id=api_key_id,
        attempts=0,
        max_attempts=max_attempts,
        failures=0,
        outages=0,
        held_reason=None,
        held_since=None,
        next_attempt_at=0,
        lease_token=None,
        lease_until=None,
        leased_by=None,
        last_error=None,
        prompt_version=None,
        provider=None,
        model=None,
        input_tokens=0,
        output_tokens=0,
        cached_tokens=0,
        calls=0,
        cost_microusd=0,
        created_at=now,
        updated_at=now,
        started_at=None,
        completed_at=None,
        failed_at=None,
        cancelled_at=None,
    )


def insert_jobs(conn: Connection, new: Sequence[Job]) -> int:
    """Write new jobs, each with its line of history; the count of those that were not there.

    Where it is less than their number the caller cannot tell which: give jobs that may be known one at a time.
    """
    inserted = dialect.insert_new(conn, observation_generation_jobs, WRITTEN, [_values(job) for job in new])
    if inserted:
        dialect.insert_new(
            conn,
            observation_generation_job_events,
            ("team_id", "project_id", "job_id", "event", "created_at"),
            [(job.team_id, job.project_id, job.id, QUEUED, job.created_at) for job in new],
        )
    return inserted


def is_live(conn: Connection, scope: Scope, kind: JobKind) -> bool:
    """Whether the project has a job of this kind that is queued or processing, of no session.

    Of two transactions that ask at the same time one waits for the other, so that both do not make one.
    """
    dialect.lock_keys(conn, [f"{kind}:{scope.project_id}"])
    table = jobs.JOBS
    live = select(table.c.id).where(
        *belongs(table, scope), table.c.session_id.is_(None), jobs.IS_LIVE, table.c.kind == kind
    )
    return conn.execute(live.limit(1)).first() is not None


def stored_jobs(conn: Connection, scope: Scope, job_ids: Iterable[str]) -> dict[str, Job]:
    """Those of these jobs that are stored and of this tenant, by id."""
    rows = dialect.fetch(conn, _BY_IDS, {**owner(scope), "of_ids": list(job_ids)})
    return {job.id: job for job in map(jobs.read_job, rows)}
