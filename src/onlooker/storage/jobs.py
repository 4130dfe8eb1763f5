"""The generation jobs' rows: renew, finish, hold, and what an operator may do. `taking` has how they are taken.

The rules are those of the protocol (R1 to R13). Each function is one transaction's work, or a part of one; whatever
decides (who is head, whose lease lives) is read after the session's lock was given and written before it is let go.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import itemgetter
from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement, Row, Text, bindparam, func, literal_column, select, update

from onlooker.domain.batching import GenerationPolicy
from onlooker.domain.errors import ClaimLost, IllegalTransition, NotFound
from onlooker.domain.jobs import LONGEST_OUTAGE_MS, JobKind, JobStatus, may_become
from onlooker.domain.models import Job, Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.given import Given
from onlooker.storage.sessions import session_lock
from onlooker.storage.tables import observation_generation_job_events, observation_generation_jobs
from onlooker.storage.tenancy import belongs

JOBS = observation_generation_jobs
COLUMNS = [JOBS.c[name] for name in Job._fields]
_KIND, _STATUS = Job._fields.index("kind"), Job._fields.index("status")

# Literals, not parameters: only then is a partial index known to hold the rows.
IS_PROCESSING: ColumnElement[bool] = JOBS.c.status == literal_column("'processing'")
IS_LIVE: ColumnElement[bool] = JOBS.c.status.in_([literal_column("'queued'"), literal_column("'processing'")])

FREED = {
    "lease_token": None,
    "lease_until": None,
    "leased_by": None,
    "rung_at": 0,
    "ring_wait_ms": 0,
    "reserved_tokens": 0,
    "reserved_microusd": 0,
}
"""What every end of a lease writes."""

# The statements of a job's ordinary way, made once: making one costs more than SQLite needs to run it.
_EXTEND = (
    update(JOBS)
    .where(dialect.among(JOBS.c.id, "of_jobs"), JOBS.c.lease_token == bindparam("by_token"), IS_PROCESSING)
    .values(lease_until=dialect.database_now() + bindparam("lease_ms", type_=BigInteger))
)
LEASE_EXPIRED = "lease expired"
RESUME_AFTER_MS = 1_500
"""Longer than a worker believes what it read of the providers' lanes."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A run of jobs that is ours until the lease ends: one, or following event jobs of one session, under one token.

    `policy` is the one that its project has, `project_name` what it is called, where that was looked up.
    """

    jobs: tuple[Job, ...]
    token: str
    policy: GenerationPolicy = GenerationPolicy.BATCH
    project_name: str | None = None

    @property
    def head(self) -> Job:
        """The first of the run."""
        return self.jobs[0]

    @property
    def ids(self) -> list[str]:
        """The ids of the run, in order."""
        return [job.id for job in self.jobs]

    def divided(self, count: int) -> tuple["Taken", "Taken"]:
        """Its first so many jobs and the others, each still under its token."""
        return replace(self, jobs=self.jobs[:count]), replace(self, jobs=self.jobs[count:])


@dataclass(frozen=True, slots=True)
class Made:
    """Who made what is stored of a run, and with what."""

    provider: str
    model: str | None
    prompt_version: str


MADE_BY_NOBODY = Made("", None, "")


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing to take now; the lane has something to do after `delay_ms`."""

    delay_ms: int


NOTHING: Literal["nothing"] = "nothing"
"""The lane has nothing to do: its message is confirmed."""


def read_job(row: Row[Any] | Sequence[Any]) -> Job:
    """The job of a row that was selected with `COLUMNS`."""
    values = list(row)
    values[_KIND] = JobKind(values[_KIND])
    values[_STATUS] = JobStatus(values[_STATUS])
    return Job._make(values)


def extend(conn: Connection, taken: Taken, *, lease_ms: int) -> None:
    """Renew the lease of the whole run from now. Raises `ClaimLost` when any of it is not ours any more."""
    given = {"of_jobs": taken.ids, "by_token": taken.token, "lease_ms": lease_ms}
    _require_all(taken, dialect.change(conn, _EXTEND, given))


class _Statements:
    """What is done for many runs or lanes at once, built once for a kind of database."""

    def __init__(self, backend: str) -> None:
        self.ids = Given(backend, id=Text())
        self.done = Given(backend, id=Text(), token=Text(), provider=Text(), model=Text(), prompt_version=Text())
        self.complete = (
            update(JOBS)
            .where(JOBS.c.id == self.done.c.id, JOBS.c.lease_token == self.done.c.token, IS_PROCESSING)
            .values(
                status=JobStatus.COMPLETED,
                completed_at=dialect.database_now(),
                updated_at=dialect.database_now(),
                provider=self.done.c.provider,
                model=self.done.c.model,
                prompt_version=self.done.c.prompt_version,
                held_since=None,
                **FREED,
            )
            .returning(JOBS.c.id, JOBS.c.completed_at)
        )
        job = JOBS.alias("job")
        is_live: ColumnElement[bool] = literal_column("job.status IN ('queued', 'processing')")
        first = select(job.c.id).where(job.c.session_id == self.ids.c.id, is_live).order_by(job.c.seq).limit(1)
        look = select(*COLUMNS, dialect.database_now()).where(IS_LIVE)
        self.heads = look.where(JOBS.c.id.in_(select(first.scalar_subquery()).select_from(self.ids.table)))
        self.themselves = look.where(JOBS.c.id.in_(select(self.ids.c.id)))


@cache
def _statements_for(backend: str) -> _Statements:
    return _Statements(backend)


def complete(conn: Connection, taken: Taken, made: Made) -> None:
    """Complete the whole run, or raise `ClaimLost` and change nothing (R5, R6). Lock the session first."""
    if taken.token not in complete_each(conn, [(taken, made)]):
        raise ClaimLost("the job's lease is gone")


def complete_each(conn: Connection, runs: Sequence[tuple[Taken, Made]]) -> set[str]:
    """Complete runs whose sessions are locked; the tokens of those that were ours, the others are left as they are.

    Raises `ClaimLost`, and the transaction must be rolled back, where only a part of a run was ours (R6).
    """
    statements = _statements_for(conn.dialect.name)
    rows = [
        (job.id, taken.token, made.provider, made.model, made.prompt_version)
        for taken, made in runs
        for job in taken.jobs
    ]
    # In one order for all: two transactions do not wait for each other.
    given = statements.done(sorted(rows, key=itemgetter(0)))
    done = dict(dialect.fetch(conn, statements.complete, given))
    whole = [taken for taken, _ in runs if not done.keys().isdisjoint(taken.ids)]
    for taken in whole:
        _require_all(taken, len(done.keys() & set(taken.ids)))
    if whole:
        note(conn, (job for taken in whole for job in taken.jobs), "completed", max(done.values()))
    return {taken.token for taken in whole}


def give_back(conn: Connection, taken: Taken, *, reason: str) -> int:
    """Put back what of the run is still ours, as if it had not been taken (R6, R12); how many these are."""
    values = {"status": JobStatus.QUEUED, "attempts": JOBS.c.attempts - 1}
    return _change(
        conn, taken.jobs, _fence(taken), values, event="given-back", now=dialect.read_clock(conn), detail=reason
    )


def hold(conn: Connection, taken: Taken, *, reason: str, delay_ms: int) -> JobStatus:
    """Put the run back because the provider, not the job, failed: no attempt is spent, the head says why.

    An outage that has held the head for a day dead-letters it. Raises `ClaimLost`.
    """
    now = dialect.read_clock(conn)
    held_since = taken.head.held_since
    if held_since is not None and now - held_since > LONGEST_OUTAGE_MS:
        return fail(conn, taken, error=reason, delay_ms=delay_ms, final=True)
    head = _give_back_all_but_head(conn, taken, reason=reason)
    values = {
        "status": JobStatus.QUEUED,
        "attempts": JOBS.c.attempts - 1,
        "outages": JOBS.c.outages + 1,
        "held_reason": reason,
        "held_since": func.coalesce(JOBS.c.held_since, now),
        "next_attempt_at": now + delay_ms,
    }
    _require_all(head, _change(conn, head.jobs, _fence(head), values, event="held", now=now, detail=reason))
    return JobStatus.QUEUED


def _give_back_all_but_head(conn: Connection, taken: Taken, *, reason: str) -> Taken:
    """Of a run that came to nothing the head alone is held to it; raises `ClaimLost` where the rest was not ours."""
    head, rest = taken.divided(1)
    if rest.jobs:
        _require_all(rest, give_back(conn, rest, reason=reason))
    return head


def fail(conn: Connection, taken: Taken, *, error: str, delay_ms: int, final: bool) -> JobStatus:
    """Record the head's failure: it waits for its next attempt or, with none left or `final`, is dead-lettered.

    The rest of a failed run goes back with its attempt, and the head is alone the next time. Raises `ClaimLost`.
    """
    now = dialect.read_clock(conn)
    head, rest = taken.divided(1)
    if rest.jobs:
        give_back(conn, rest, reason="the run failed")
    dead = final or taken.head.attempts >= taken.head.max_attempts
    values: dict[str, Any] = {"failures": JOBS.c.failures + 1, "last_error": error, "held_since": None}
    if dead:
        values |= {"status": JobStatus.FAILED, "failed_at": now}
    else:
        values |= {"status": JobStatus.QUEUED, "next_attempt_at": now + delay_ms}
    event = "failed" if dead else "retry"
    _require_all(head, _change(conn, head.jobs, _fence(head), values, event=event, now=now, detail=error))
    return JobStatus.FAILED if dead else JobStatus.QUEUED


def lock(conn: Connection, job: Job) -> None:
    """Hold the job's session until the transaction ends (R1)."""
    lock_all(conn, [job])


def lock_all(conn: Connection, jobs: Iterable[Job]) -> None:
    """Hold the sessions of these jobs until the transaction ends (R1)."""
    dialect.lock_keys(conn, [session_lock(job.session_id) for job in jobs if job.session_id is not None])


def is_held(conn: Connection, taken: Taken) -> bool:
    """Whether any of the run is still processing under its token: then no commit has ended it (R5)."""
    held = conn.execute(select(func.count()).select_from(JOBS).where(*_fence(taken))).scalar_one()
    return bool(held)


def find_taken(conn: Connection, job_id: str, token: str) -> Taken | None:
    """What a take under this token took, when the reply to its commit was lost (R5); None when it took nothing."""
    session_id = select(JOBS.c.session_id).where(JOBS.c.id == job_id).scalar_subquery()
    rows = conn.execute(
        select(*COLUMNS)
        .where(IS_PROCESSING, JOBS.c.lease_token == token, (JOBS.c.id == job_id) | (JOBS.c.session_id == session_id))
        .order_by(JOBS.c.seq)
    ).all()
    return Taken(tuple(map(read_job, rows)), token) if rows else None


def next_heads(conn: Connection, lanes: Sequence[tuple[str | None, str]]) -> list[Job | None]:
    """The head of each lane where it is queued and due, else None (R7).

    A lane is named by its session, and one of no session by its job, which is its head.
    """
    statements = _statements_for(conn.dialect.name)
    sessions = [(session_id,) for session_id, _ in lanes if session_id is not None]
    themselves = [(job_id,) for session_id, job_id in lanes if session_id is None]
    rows: list[Any] = []
    if sessions:
        rows += dialect.fetch(conn, statements.heads, statements.ids(sessions))
    if themselves:
        rows += dialect.fetch(conn, statements.themselves, statements.ids(themselves))
    due: dict[str, Job] = {}
    for *columns, now in rows:
        head = read_job(columns)
        if head.status is JobStatus.QUEUED and head.next_attempt_at <= now:
            due[head.session_id or head.id] = head
    return [due.get(session_id or job_id) for session_id, job_id in lanes]


def next_head(conn: Connection, session_id: str | None, job_id: str) -> Job | None:
    """`next_heads` for one lane."""
    return next_heads(conn, [(session_id, job_id)])[0]


def get(conn: Connection, scope: Scope, job_id: str) -> Job:
    """A job of this tenant. Raises `NotFound`."""
    row = conn.execute(select(*COLUMNS).where(*belongs(JOBS, scope), JOBS.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound("no such job")
    return read_job(row)


def statuses(conn: Connection, job_ids: Sequence[str]) -> dict[str, JobStatus]:
    """The status of each of these jobs; for waiters, who know the ids from their own requests."""
    rows = conn.execute(select(JOBS.c.id, JOBS.c.status).where(JOBS.c.id.in_(job_ids)))
    return {row.id: JobStatus(row.status) for row in rows}


def cancel(conn: Connection, scope: Scope, job_id: str, *, reason: str) -> tuple[Job, bool]:
    """Cancel a job that is queued or processing; its worker's write is refused from now on.

    Again: the same job and False. Raises `NotFound`, and `IllegalTransition` for one that completed or failed.
    """
    job = get(conn, scope, job_id)
    lock(conn, job)
    job = get(conn, scope, job_id)
    if job.status is JobStatus.CANCELLED:
        return job, False
    if not may_become(job.status, JobStatus.CANCELLED):
        raise IllegalTransition(f"the job is {job.status} and cannot be cancelled")
    if not finish(conn, [job], JobStatus.CANCELLED, dialect.read_clock(conn), error=reason):
        # A job of no session has no lock: its worker was faster.
        raise IllegalTransition("the job ended meanwhile and cannot be cancelled")
    return get(conn, scope, job_id), True


def retry(conn: Connection, scope: Scope, job_id: str) -> tuple[Job, bool]:
    """Queue a failed or cancelled job again with all its attempts, or bring a waiting one's time forward.

    True when it was queued by this call. Raises `NotFound`, and `IllegalTransition` while it is processing or after it
    completed.
    """
    job = get(conn, scope, job_id)
    lock(conn, job)
    job = get(conn, scope, job_id)
    if job.status in {JobStatus.PROCESSING, JobStatus.COMPLETED}:
        raise IllegalTransition(f"the job is {job.status} and cannot be retried")
    now = dialect.read_clock(conn)
    again = job.status is not JobStatus.QUEUED
    fresh = {"attempts": 0, "failed_at": None, "cancelled_at": None} if again else {}
    conn.execute(
        update(JOBS)
        .where(*belongs(JOBS, scope), JOBS.c.id == job_id, JOBS.c.status == job.status)
        .values(
            status=JobStatus.QUEUED,
            next_attempt_at=0,
            held_reason=None,
            held_since=None,
            rung_at=0,
            updated_at=now,
            **fresh,
        )
    )
    note(conn, [job], "retried", now)
    return get(conn, scope, job_id), again


def release_held(conn: Connection) -> int:
    """Make due what was held for a provider, since it takes calls again; how many. Ring the heads afterwards.

    What a cap holds waits on.
    """
    held = (JOBS.c.status == JobStatus.QUEUED, JOBS.c.held_reason.is_not(None), JOBS.c.held_since.is_not(None))
    return conn.execute(update(JOBS).where(*held).values(next_attempt_at=0, rung_at=0, ring_wait_ms=0)).rowcount


def resume(conn: Connection, team_id: str, project_id: str | None) -> list[Job]:
    """Make due all that is held in a team, or in one project of it, whatever holds it; these jobs.

    They are due a moment later: by then all workers know that providers are to be asked again. Where the reason has
    not gone away they are held again when they are looked at. A second call finds none.
    """
    now = dialect.read_clock(conn)
    conditions = [JOBS.c.team_id == team_id, JOBS.c.status == JobStatus.QUEUED, JOBS.c.held_reason.is_not(None)]
    if project_id is not None:
        conditions.append(JOBS.c.project_id == project_id)
    due = now + RESUME_AFTER_MS
    values = {"held_reason": None, "held_since": None, "next_attempt_at": due, "rung_at": 0, "ring_wait_ms": 0}
    rows = conn.execute(update(JOBS).where(*conditions).values(**values, updated_at=now).returning(*COLUMNS))
    resumed = [read_job(row) for row in rows]
    note(conn, resumed, "resumed", now)
    return resumed


def held_by_reason(conn: Connection) -> list[tuple[str, int]]:
    """How many jobs are held for each reason, over all tenants, the commonest first: what health tells."""
    counted = func.count().label("jobs")
    held = select(JOBS.c.held_reason, counted).where(JOBS.c.held_reason.is_not(None), JOBS.c.status == JobStatus.QUEUED)
    return [(row[0], row[1]) for row in conn.execute(held.group_by(JOBS.c.held_reason).order_by(counted.desc()))]


def finish(conn: Connection, jobs: Sequence[Job], status: JobStatus, now: int, *, error: str) -> int:
    """Make live jobs failed or cancelled, whoever holds them; how many. The session is locked."""
    values = {"status": status, f"{status}_at": now, "last_error": error}
    live = (JOBS.c.id.in_([job.id for job in jobs]), IS_LIVE)
    return _change(conn, jobs, live, values, event=status, now=now, detail=error)


def requeue(conn: Connection, jobs: Sequence[Job], now: int, *, event: str) -> None:
    """Take jobs away from a worker that is gone; their attempt stays spent. The session is locked."""
    if jobs:
        held = (JOBS.c.id.in_([job.id for job in jobs]), IS_PROCESSING)
        _change(conn, jobs, held, {"status": JobStatus.QUEUED}, event=event, now=now)


def expire(conn: Connection, jobs: Sequence[Job], now: int, *, event: str = "lease-expired") -> list[Job]:
    """Put back what is held by nobody: dead-letter those with no attempt left (R4), queue the others.

    Returns those that are queued now. The sessions are locked, and the caller has read the jobs under the lock.
    """
    spent = [job for job in jobs if job.attempts >= job.max_attempts]
    rest = [job for job in jobs if job.attempts < job.max_attempts]
    if spent:
        finish(conn, spent, JobStatus.FAILED, now, error=LEASE_EXPIRED)
    requeue(conn, rest, now, event=event)
    return rest


def _change(
    conn: Connection,
    jobs: Sequence[Job],
    conditions: Sequence[ColumnElement[bool]],
    values: Mapping[str, Any],
    *,
    event: str,
    now: int,
    detail: str = "",
) -> int:
    """End the lease of those of the jobs that meet the conditions, and write it into their history; how many."""
    changing = update(JOBS).where(*conditions).values({**FREED, "updated_at": now, **values}).returning(JOBS.c.id)
    changed = set(conn.execute(changing).scalars())
    note(conn, [job for job in jobs if job.id in changed], event, now, detail)
    return len(changed)


def _require_all(taken: Taken, changed: int) -> None:
    """A run is written whole or not at all: the transaction of a part is rolled back by this (R6)."""
    if changed != len(taken.jobs):
        raise ClaimLost("the job's lease is gone")


def _fence(taken: Taken) -> tuple[ColumnElement[bool], ...]:
    """A worker's write requires its token and status processing (R5)."""
    return JOBS.c.id.in_(taken.ids), JOBS.c.lease_token == taken.token, IS_PROCESSING


def note(conn: Connection, jobs: Iterable[Job], event: str, now: int, detail: str = "") -> None:
    """Write into the jobs' own history."""
    dialect.insert_new(
        conn,
        observation_generation_job_events,
        ("team_id", "project_id", "job_id", "event", "detail", "created_at"),
        [(job.team_id, job.project_id, job.id, str(event), detail, now) for job in jobs],
    )
