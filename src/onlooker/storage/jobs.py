"""The generation jobs' rows: take, renew, finish, and what an operator may do.

The rules are those of the protocol (R1 to R13). Each function is one transaction's work, or a part of one; whatever
decides (who is head, whose lease lives) is read after the session's lock was given and written before it is let go.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, bindparam, func, literal_column, select, update

from onlooker.domain.errors import ClaimLost, IllegalTransition, NotFound
from onlooker.domain.jobs import LONGEST_OUTAGE_MS, JobKind, JobStatus, may_become
from onlooker.domain.models import Job, Scope, Usage
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.sessions import session_lock
from onlooker.storage.tables import (
    api_keys,
    observation_generation_job_events,
    observation_generation_jobs,
    usage_daily,
)
from onlooker.storage.tenancy import belongs

JOBS = observation_generation_jobs
COLUMNS = [JOBS.c[field.name] for field in fields(Job)]

# Literals, not parameters: only then is a partial index known to hold the rows.
IS_PROCESSING: ColumnElement[bool] = JOBS.c.status == literal_column("'processing'")
IS_LIVE: ColumnElement[bool] = JOBS.c.status.in_([literal_column("'queued'"), literal_column("'processing'")])

FREED = {"lease_token": None, "lease_until": None, "leased_by": None, "rung_at": 0, "ring_wait_ms": 0}
"""What every end of a lease writes."""

# The statements of a job's ordinary way, made once: making one costs more than SQLite needs to run it.
_SESSION_OF = select(JOBS.c.session_id).where(JOBS.c.id == bindparam("of_job"))
_OF_SESSION = JOBS.c.session_id == bindparam("of_session")
_IS_HELD_BEHIND_HEAD = JOBS.c.seq > (
    select(func.min(JOBS.c.seq)).where(JOBS.c.session_id == bindparam("of_session"), IS_LIVE).scalar_subquery()
)
_OTHERS = select(*COLUMNS).where(_OF_SESSION, IS_PROCESSING, _IS_HELD_BEHIND_HEAD)
_FROM_HEAD = select(*COLUMNS).where(_OF_SESSION, IS_LIVE).order_by(JOBS.c.seq).limit(bindparam("most"))
_ITSELF = select(*COLUMNS).where(JOBS.c.id == bindparam("of_job"), IS_LIVE)
_REVOKED_AT = select(api_keys.c.revoked_at).where(
    api_keys.c.id == bindparam("of_key"), api_keys.c.team_id == bindparam("of_team")
)
_TAKE = (
    update(JOBS)
    .where(dialect.among(JOBS.c.id, "of_jobs"), IS_LIVE)
    .values(
        status=JobStatus.PROCESSING,
        lease_token=bindparam("by_token"),
        lease_until=bindparam("until"),
        leased_by=bindparam("by_worker"),
        held_reason=None,
        attempts=JOBS.c.attempts + 1,
        rung_at=0,
        ring_wait_ms=0,
        started_at=func.coalesce(JOBS.c.started_at, bindparam("at")),
        updated_at=bindparam("at"),
    )
    .returning(*COLUMNS)
)
_COMPLETE = (
    update(JOBS)
    .where(dialect.among(JOBS.c.id, "of_jobs"), JOBS.c.lease_token == bindparam("by_token"), IS_PROCESSING)
    .values(
        status=JobStatus.COMPLETED,
        completed_at=bindparam("at"),
        updated_at=bindparam("at"),
        provider=bindparam("by_provider"),
        model=bindparam("by_model"),
        prompt_version=bindparam("by_prompt"),
        held_since=None,
        **FREED,
    )
)

BUSY_SESSION_MS = 5_000
"""How long a message waits when another worker has its session (R3)."""

LEASE_EXPIRED = "lease expired"
KEY_REVOKED = "the key that sent this was revoked"


@dataclass(frozen=True, slots=True)
class Taken:
    """A run of jobs that is ours until the lease ends: one, or following event jobs of one session, under one token."""

    jobs: tuple[Job, ...]
    token: str

    @property
    def head(self) -> Job:
        """The first of the run."""
        return self.jobs[0]

    @property
    def ids(self) -> list[str]:
        """The ids of the run, in order."""
        return [job.id for job in self.jobs]


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing to take now; the lane has something to do after `delay_ms`."""

    delay_ms: int


NOTHING: Literal["nothing"] = "nothing"
"""The lane has nothing to do: its message is confirmed."""


def read_job(row: Row[Any]) -> Job:
    """The job of a row that was selected with `COLUMNS`."""
    values = dict(row._mapping)  # noqa: SLF001 - the documented way to a row as a mapping
    return Job(**{**values, "kind": JobKind(values["kind"]), "status": JobStatus(values["status"])})


def take(
    conn: Connection, job_id: str, *, token: str, worker: str, lease_ms: int, longest_run: int
) -> Taken | Later | Literal["nothing"]:
    """Take the head of the lane that this job's message stands in (R2, R3, R4).

    The run is `longest_run` jobs at most, and one where the head was tried before: a job that failed, or that took
    its worker down, is alone the next time (R6).
    """
    told = conn.execute(_SESSION_OF, {"of_job": job_id}).one_or_none()
    if told is None:
        return NOTHING
    session_id: str | None = told.session_id
    if session_id is not None:
        dialect.lock_keys(conn, [session_lock(session_id)])
    now = dialect.read_clock(conn)
    if session_id is not None and (busy := _clear_others(conn, session_id, now)):
        return busy
    while True:
        run = _run_from_head(conn, job_id, session_id, longest_run)
        if not run:
            return NOTHING
        head = run[0]
        lease_left = (head.lease_until or 0) - now if head.status is JobStatus.PROCESSING else 0
        if lease_left > 0:
            return Later(min(lease_left, BUSY_SESSION_MS))
        if head.attempts >= head.max_attempts:
            _finish(conn, [head], JobStatus.FAILED, now, error=LEASE_EXPIRED)
        elif _key_is_revoked(conn, head):
            _finish(conn, [head], JobStatus.CANCELLED, now, error=KEY_REVOKED)
        elif head.status is JobStatus.QUEUED and head.next_attempt_at > now:
            return Later(head.next_attempt_at - now)
        else:
            return _take_run(conn, _due_run(run, now), token=token, worker=worker, until=now + lease_ms, now=now)


def _clear_others(conn: Connection, session_id: str, now: int) -> Later | None:
    """Give back what a dead worker holds in this session; where a live one holds something, wait for it.

    The head is left alone here: a head whose lease is over is taken over, which is one write less.
    """
    others = conn.execute(_OTHERS, {"of_session": session_id}).all()
    jobs = [read_job(row) for row in others]
    if alive := [job for job in jobs if (job.lease_until or 0) > now]:
        return Later(min(BUSY_SESSION_MS, *((job.lease_until or 0) - now for job in alive)))
    _requeue(conn, jobs, now, event="lease-expired")
    return None


def _run_from_head(conn: Connection, job_id: str, session_id: str | None, longest_run: int) -> list[Job]:
    """The live jobs of the lane from its head on; of a lane with no session, the message's own job."""
    if session_id is None:
        return [read_job(row) for row in conn.execute(_ITSELF, {"of_job": job_id})]
    return [read_job(row) for row in conn.execute(_FROM_HEAD, {"of_session": session_id, "most": longest_run})]


def _due_run(live: list[Job], now: int) -> list[Job]:
    """The head and the untried, due event jobs of the same key that follow it without a gap (R6)."""
    head, *rest = live
    run = [head]
    if head.kind is JobKind.EVENT and not head.attempts and head.max_attempts > 1:
        for job in rest:
            fits = job.kind is JobKind.EVENT and job.status is JobStatus.QUEUED and not job.attempts
            if not fits or job.next_attempt_at > now or job.api_key_id != head.api_key_id:
                break
            run.append(job)
    return run


def _key_is_revoked(conn: Connection, job: Job) -> bool:
    if job.api_key_id is None:
        return False
    given = {"of_key": job.api_key_id, "of_team": job.team_id}
    return conn.execute(_REVOKED_AT, given).scalar_one_or_none() is not None


def _take_run(conn: Connection, run: list[Job], *, token: str, worker: str, until: int, now: int) -> Taken:
    given = {"of_jobs": [job.id for job in run], "by_token": token, "by_worker": worker, "until": until, "at": now}
    rows = conn.execute(_TAKE, given).all()
    taken = sorted((read_job(row) for row in rows), key=lambda job: job.seq or 0)
    _note(conn, taken, "taken", now)
    return Taken(tuple(taken), token)


def extend(conn: Connection, taken: Taken, *, lease_ms: int) -> None:
    """Renew the lease of the whole run from now. Raises `ClaimLost` when any of it is not ours any more."""
    now = dialect.read_clock(conn)
    _require_all(taken, conn.execute(update(JOBS).where(*_fence(taken)).values(lease_until=now + lease_ms)).rowcount)


def complete(conn: Connection, taken: Taken, *, provider: str, model: str | None, prompt_version: str) -> None:
    """Complete the whole run, or raise `ClaimLost` and change nothing (R5, R6). Lock the session first."""
    now = dialect.read_clock(conn)
    given = {"of_jobs": taken.ids, "by_token": taken.token, "at": now}
    made = {"by_provider": provider, "by_model": model, "by_prompt": prompt_version}
    _require_all(taken, conn.execute(_COMPLETE, {**given, **made}).rowcount)
    _note(conn, taken.jobs, "completed", now)


def give_back(conn: Connection, taken: Taken, *, reason: str) -> None:
    """Put back what of the run is still ours, as if it had not been taken (R6, R12)."""
    values = {"status": JobStatus.QUEUED, "attempts": JOBS.c.attempts - 1}
    _change(conn, taken.jobs, _fence(taken), values, event="given-back", now=dialect.read_clock(conn), detail=reason)


def hold(conn: Connection, taken: Taken, *, reason: str, delay_ms: int) -> JobStatus:
    """Put the run back because the provider, not the job, failed: no attempt is spent, the reason is shown.

    An outage that has held the head for a day dead-letters it. Raises `ClaimLost`.
    """
    now = dialect.read_clock(conn)
    held_since = taken.head.held_since
    if held_since is not None and now - held_since > LONGEST_OUTAGE_MS:
        return fail(conn, taken, error=reason, delay_ms=delay_ms, final=True)
    values = {
        "status": JobStatus.QUEUED,
        "attempts": JOBS.c.attempts - 1,
        "outages": JOBS.c.outages + 1,
        "held_reason": reason,
        "held_since": func.coalesce(JOBS.c.held_since, now),
        "next_attempt_at": now + delay_ms,
    }
    _require_all(taken, _change(conn, taken.jobs, _fence(taken), values, event="held", now=now, detail=reason))
    return JobStatus.QUEUED


def fail(conn: Connection, taken: Taken, *, error: str, delay_ms: int, final: bool) -> JobStatus:
    """Record the head's failure: it waits for its next attempt or, with none left or `final`, is dead-lettered.

    The rest of a failed run goes back with its attempt, and the head is alone the next time. Raises `ClaimLost`.
    """
    now = dialect.read_clock(conn)
    head, rest = Taken(taken.jobs[:1], taken.token), Taken(taken.jobs[1:], taken.token)
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
    if job.session_id is not None:
        dialect.lock_keys(conn, [session_lock(job.session_id)])


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


def record_usage(conn: Connection, job: Job, usage: Usage, *, day: str, provider: str, model: str) -> None:
    """Add what a call cost to its job and its day, whoever holds the job now: a refused answer was paid too."""
    conn.execute(
        update(JOBS)
        .where(JOBS.c.id == job.id)
        .values(
            calls=JOBS.c.calls + usage.calls,
            input_tokens=JOBS.c.input_tokens + usage.input_tokens,
            output_tokens=JOBS.c.output_tokens + usage.output_tokens,
            cached_tokens=JOBS.c.cached_tokens + usage.cached_tokens,
        )
    )
    key = {"team_id": job.team_id, "project_id": job.project_id, "day": day, "provider": provider, "model": model}
    dialect.insert_new(
        conn,
        usage_daily,
        (*key, "calls", "input_tokens", "output_tokens", "cached_tokens", "cost_microusd"),
        [(*key.values(), 0, 0, 0, 0, 0)],
    )
    conn.execute(
        update(usage_daily)
        .where(*(usage_daily.c[name] == value for name, value in key.items()))
        .values(
            calls=usage_daily.c.calls + usage.calls,
            input_tokens=usage_daily.c.input_tokens + usage.input_tokens,
            output_tokens=usage_daily.c.output_tokens + usage.output_tokens,
            cached_tokens=usage_daily.c.cached_tokens + usage.cached_tokens,
        )
    )


def next_head(conn: Connection, session_id: str | None, job_id: str) -> Job | None:
    """The head of a lane where it is queued and due: a session's, or of no session the job itself; else None (R7)."""
    if session_id is None:
        row = conn.execute(_ITSELF, {"of_job": job_id}).one_or_none()
    else:
        row = conn.execute(_FROM_HEAD, {"of_session": session_id, "most": 1}).one_or_none()
    if row is None or row.status != JobStatus.QUEUED or row.next_attempt_at > dialect.read_clock(conn):
        return None
    return read_job(row)


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
    if not _finish(conn, [job], JobStatus.CANCELLED, dialect.read_clock(conn), error=reason):
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
    _note(conn, [job], "retried", now)
    return get(conn, scope, job_id), again


def _finish(conn: Connection, jobs: Sequence[Job], status: JobStatus, now: int, *, error: str) -> int:
    """Make live jobs failed or cancelled, whoever holds them; how many. The session is locked."""
    values = {"status": status, f"{status}_at": now, "last_error": error}
    live = (JOBS.c.id.in_([job.id for job in jobs]), IS_LIVE)
    return _change(conn, jobs, live, values, event=status, now=now, detail=error)


def _requeue(conn: Connection, jobs: Sequence[Job], now: int, *, event: str) -> None:
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
        _finish(conn, spent, JobStatus.FAILED, now, error=LEASE_EXPIRED)
    _requeue(conn, rest, now, event=event)
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
    _note(conn, [job for job in jobs if job.id in changed], event, now, detail)
    return len(changed)


def _require_all(taken: Taken, changed: int) -> None:
    """A run is written whole or not at all: the transaction of a part is rolled back by this (R6)."""
    if changed != len(taken.jobs):
        raise ClaimLost("the job's lease is gone")


def _fence(taken: Taken) -> tuple[ColumnElement[bool], ...]:
    """A worker's write requires its token and status processing (R5)."""
    return JOBS.c.id.in_(taken.ids), JOBS.c.lease_token == taken.token, IS_PROCESSING


def _note(conn: Connection, jobs: Iterable[Job], event: str, now: int, detail: str = "") -> None:
    """Write into the jobs' own history."""
    dialect.insert_new(
        conn,
        observation_generation_job_events,
        ("team_id", "project_id", "job_id", "event", "detail", "created_at"),
        [(job.team_id, job.project_id, job.id, str(event), detail, now) for job in jobs],
    )
