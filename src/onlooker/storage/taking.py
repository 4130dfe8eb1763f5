"""Take a lane's head: the one transaction that decides who works on what (R2, R3, R4, R6), and whether it may cost.

What a policy or a cap forbids now is not taken: the lane is looked at again later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import bindparam, exists, func, or_, select, update

from onlooker.domain.batching import Batching, GenerationPolicy, Settling, choose_run
from onlooker.domain.jobs import CALLS_A_MODEL, JobStatus
from onlooker.domain.models import Job
from onlooker.domain.spending import NO_CAPS, NOTHING_SPENT, Amount, DefaultCaps, Price
from onlooker.storage import dialect, spending
from onlooker.storage.database import Connection
from onlooker.storage.jobs import (
    COLUMNS,
    IS_LIVE,
    IS_PROCESSING,
    JOBS,
    LEASE_EXPIRED,
    NOTHING,
    Later,
    Taken,
    finish,
    note,
    read_job,
    requeue,
)
from onlooker.storage.sessions import session_lock
from onlooker.storage.tables import api_keys, projects, usage_caps

BUSY_SESSION_MS = 5_000
"""How long a message waits when another worker has its session (R3)."""

KEY_REVOKED = "the key that sent this was revoked"


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a process takes jobs. `spends` says that its provider's calls cost something.

    `prices` are those of the models that may be called, as far as they are known.
    """

    worker: str
    lease_ms: int
    batching: Batching
    spends: bool = False
    project_caps: DefaultCaps = NO_CAPS
    team_caps: DefaultCaps = NO_CAPS
    prices: Sequence[Price] = ()

    @property
    def has_caps(self) -> bool:
        """Whether the settings cap anything, whatever projects and teams have of their own."""
        return self.project_caps != NO_CAPS or self.team_caps != NO_CAPS


@dataclass(frozen=True, slots=True)
class _Circumstances:
    """What else counts when a head may be taken; in the order of `_AROUND`."""

    now: int
    project_name: str
    policy: str | None
    has_caps: bool
    revoked_at: int | None


_OF_SESSION = JOBS.c.session_id == bindparam("of_session")
_LIVE_SEQS = select(JOBS.c.seq).where(_OF_SESSION, IS_LIVE).order_by(JOBS.c.seq).limit(bindparam("most")).subquery()
_LIVE = (
    select(*COLUMNS)
    .where(_OF_SESSION, IS_LIVE, or_(JOBS.c.seq <= select(func.max(_LIVE_SEQS.c.seq)).scalar_subquery(), IS_PROCESSING))
    .order_by(JOBS.c.seq)
)
"""The first jobs of a lane, and whatever else of it is processing."""

_ITSELF = select(*COLUMNS).where(JOBS.c.id == bindparam("of_job"), IS_LIVE)
_AROUND = select(
    dialect.database_now(),
    projects.c.name,
    projects.c.generation_policy,
    exists().where(usage_caps.c.team_id == bindparam("of_team")),
    select(api_keys.c.revoked_at)
    .where(api_keys.c.id == bindparam("of_key"), api_keys.c.team_id == bindparam("of_team"))
    .scalar_subquery(),
).where(projects.c.id == bindparam("of_project"), projects.c.team_id == bindparam("of_team"))
_TAKE = (
    update(JOBS)
    .where(
        dialect.among(JOBS.c.id, "of_jobs"),
        or_(JOBS.c.status == JobStatus.QUEUED, IS_PROCESSING & (JOBS.c.lease_until <= bindparam("at"))),
    )
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
)
_HOLD = (
    update(JOBS)
    .where(JOBS.c.id == bindparam("of_job"), JOBS.c.project_id == bindparam("of_project"), IS_LIVE)
    .values(
        held_reason=bindparam("why"),
        held_since=None,
        next_attempt_at=bindparam("due"),
        updated_at=bindparam("at"),
    )
)


def take(
    conn: Connection, session_id: str | None, job_id: str, terms: Terms, *, token: str, wall_ms: int
) -> Taken | Later | Literal["nothing"]:
    """Take the head of the lane that this job's message stands in; of a lane with no session, the job itself.

    `wall_ms` is the time of day, by which caps count their days. A job that failed, or that took its worker down, is
    alone the next time (R6).
    """
    if session_id is not None:
        dialect.lock_keys(conn, [session_lock(session_id)])
    while True:
        live = _live(conn, session_id, job_id, terms.batching.most_looked_at)
        if not live:
            return NOTHING
        head = live[0]
        around = _look_around(conn, head)
        if others := [job for job in live[1:] if job.status is JobStatus.PROCESSING]:
            if alive := [job for job in others if (job.lease_until or 0) > around.now]:
                return Later(min(BUSY_SESSION_MS, *((job.lease_until or 0) - around.now for job in alive)))
            # A head whose lease is over is taken over below, which is one write less.
            requeue(conn, others, around.now, event="lease-expired")
            continue
        lease_left = (head.lease_until or 0) - around.now if head.status is JobStatus.PROCESSING else 0
        if lease_left > 0:
            return Later(min(lease_left, BUSY_SESSION_MS))
        if head.attempts >= head.max_attempts:
            finish(conn, [head], JobStatus.FAILED, around.now, error=LEASE_EXPIRED)
        elif around.revoked_at is not None:
            finish(conn, [head], JobStatus.CANCELLED, around.now, error=KEY_REVOKED)
        elif head.status is JobStatus.QUEUED and head.next_attempt_at > around.now:
            return Later(head.next_attempt_at - around.now)
        else:
            return _take(conn, live, around, terms, token=token, wall_ms=wall_ms)


def _live(conn: Connection, session_id: str | None, job_id: str, most: int) -> list[Job]:
    if session_id is None:
        return [read_job(row) for row in dialect.fetch(conn, _ITSELF, {"of_job": job_id})]
    return [read_job(row) for row in dialect.fetch(conn, _LIVE, {"of_session": session_id, "most": most})]


def _look_around(conn: Connection, head: Job) -> _Circumstances:
    given = {"of_project": head.project_id, "of_team": head.team_id, "of_key": head.api_key_id}
    return _Circumstances(*dialect.fetch(conn, _AROUND, given)[0])


def _take(
    conn: Connection, live: Sequence[Job], around: _Circumstances, terms: Terms, *, token: str, wall_ms: int
) -> Taken | Later:
    """Take the run that begins with the head, unless something says to wait."""
    head, now = live[0], around.now
    batching = terms.batching
    if around.policy is not None:
        batching = replace(batching, policy=GenerationPolicy(around.policy))
        if batching.most > terms.batching.most:
            live = _live(conn, head.session_id, head.id, batching.most_looked_at)
    run = choose_run(live, batching, now)
    if isinstance(run, Settling):
        return Later(run.delay_ms)
    reserved = NOTHING_SPENT
    if terms.spends and head.kind in CALLS_A_MODEL and (around.has_caps or terms.has_caps):
        reached = spending.held_by_cap(conn, head, terms.project_caps, terms.team_caps, wall_ms)
        if reached is not None:
            if not reached.by_calls_in_flight:
                _hold(conn, head, str(reached.cap), now, due=now + reached.delay_ms)
            return Later(reached.delay_ms)
        reserved = spending.estimate_of(conn, run, terms.batching, terms.prices)
    taken = Taken(tuple(run), token, batching.policy, around.project_name)
    return _write(conn, taken, terms, now=now, reserved=reserved)


def _hold(conn: Connection, head: Job, reason: str, now: int, *, due: int) -> None:
    """Park the head by its row (R9). What a cap holds is no outage: no end of one makes it due."""
    given = {"of_job": head.id, "of_project": head.project_id, "why": reason, "due": due, "at": now}
    if head.status is JobStatus.PROCESSING:
        requeue(conn, [head], now, event="lease-expired")
    dialect.change(conn, _HOLD, given)
    note(conn, [head], "held", now, reason)


def _write(conn: Connection, run: Taken, terms: Terms, *, now: int, reserved: Amount) -> Taken | Later:
    until = now + terms.lease_ms
    given = {"of_jobs": run.ids, "by_token": run.token, "by_worker": terms.worker, "until": until, "at": now}
    if dialect.change(conn, _TAKE, given) != len(run.jobs):
        # A job of no session has no lock: another worker was faster.
        return Later(BUSY_SESSION_MS)
    if reserved != NOTHING_SPENT:
        spending.reserve(conn, run.head, reserved)
    note(conn, run.jobs, "taken", now)
    taken = [
        job._replace(
            status=JobStatus.PROCESSING,
            attempts=job.attempts + 1,
            held_reason=None,
            started_at=now if job.started_at is None else job.started_at,
            updated_at=now,
            lease_token=run.token,
            lease_until=until,
            leased_by=terms.worker,
        )
        for job in run.jobs
    ]
    return replace(run, jobs=tuple(taken))
