"""What the outbox looks for over all tenants: leases that are over, and heads that are due and were not rung lately.

A session's head is its live job of lowest `seq`. Finding heads costs one index step a session, not one a row: a
million waiting rows in 10,000 sessions are 10,000 steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import case, func, select, text, update

from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import Job
from onlooker.host import ProcessIdentity
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.jobs import COLUMNS, IS_PROCESSING, JOBS, expire, lock_all, read_job

PAGE = 1_000
FIRST_RING_WAIT_MS = 30_000
LONGEST_RING_WAIT_MS = 480_000

RECONCILE_LOCK = "onlooker.reconcile"

_SESSION_HEADS = text(
    """
    WITH RECURSIVE lane(session_id) AS (
        SELECT min(session_id) FROM observation_generation_jobs
        WHERE session_id > :after AND status IN ('queued', 'processing')
        UNION ALL
        SELECT (SELECT min(j.session_id) FROM observation_generation_jobs j
                WHERE j.session_id > lane.session_id AND j.status IN ('queued', 'processing'))
        FROM lane WHERE lane.session_id IS NOT NULL
    )
    SELECT lane.session_id,
           (SELECT j.id FROM observation_generation_jobs j
            WHERE j.session_id = lane.session_id AND j.status IN ('queued', 'processing')
            ORDER BY j.seq LIMIT 1) AS id
    FROM lane WHERE lane.session_id IS NOT NULL LIMIT :page
    """
)

_WITHOUT_SESSION = text(
    """
    SELECT id FROM observation_generation_jobs
    WHERE session_id IS NULL AND status IN ('queued', 'processing') AND id > :after ORDER BY id LIMIT :page
    """
)

# The words of the partial index: only then is it known to hold the rows.
OLDEST_QUEUED = select(func.min(JOBS.c.created_at)).where(text("status = 'queued' AND created_at >= 0"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk over all heads stands; `None` for a part that is done."""

    session_id: str | None = ""
    job_id: str | None = ""

    @property
    def is_end(self) -> bool:
        """Whether the walk is over."""
        return self.session_id is None and self.job_id is None


def expire_leases(conn: Connection) -> int:
    """Put back or dead-letter up to `PAGE` jobs whose lease is over; how many were found."""
    over = select(*COLUMNS).where(IS_PROCESSING, JOBS.c.lease_until <= dialect.database_now()).limit(PAGE)
    found = [read_job(row) for row in conn.execute(over)]
    _put_back(conn, found, "lease-expired")
    return len(found)


def dead_holders(conn: Connection) -> list[str]:
    """The processes of this machine that hold jobs and are gone."""
    holders = conn.execute(select(JOBS.c.leased_by).where(IS_PROCESSING).distinct()).scalars()
    identities = ((holder, ProcessIdentity.parse(holder or "")) for holder in holders)
    return [holder for holder, identity in identities if holder and identity and identity.is_known_dead()]


def release_held_by(conn: Connection, holders: Sequence[str]) -> list[Job]:
    """Put back what these processes hold; those that are queued now."""
    held = select(*COLUMNS).where(IS_PROCESSING, JOBS.c.leased_by.in_(holders))
    return _put_back(conn, [read_job(row) for row in conn.execute(held)], "holder-died")


def _put_back(conn: Connection, found: Sequence[Job], event: str) -> list[Job]:
    """Lock the sessions, then put back those that are still held as they were found."""
    if not found:
        return []
    lock_all(conn, found)
    tokens = {job.id: job.lease_token for job in found}
    until = {job.id: job.lease_until for job in found}
    rows = conn.execute(select(*COLUMNS).where(JOBS.c.id.in_(tokens), IS_PROCESSING))
    same = [
        job
        for job in map(read_job, rows)
        if job.lease_token == tokens[job.id] and (event == "holder-died" or job.lease_until == until[job.id])
    ]
    return expire(conn, same, dialect.read_clock(conn), event=event)


def ring_page(conn: Connection, place: Place, *, everything: bool = False) -> tuple[list[Job], Place]:
    """The due heads after `place` that were not rung lately, marked as rung now; and the place after them.

    A head that is rung again and again without a change waits longer each time, up to eight minutes. `everything`
    rings without regard to that: the queue has lost its messages. One process rings at a time.
    """
    dialect.lock_keys(conn, [RECONCILE_LOCK])
    ids: list[str] = []
    session_id, job_id = place.session_id, place.job_id
    if session_id is not None:
        page = conn.execute(_SESSION_HEADS, {"after": session_id, "page": PAGE}).all()
        ids += [row.id for row in page]
        session_id = page[-1].session_id if len(page) == PAGE else None
    if job_id is not None:
        loose = list(conn.execute(_WITHOUT_SESSION, {"after": job_id, "page": PAGE}).scalars())
        ids += loose
        job_id = loose[-1] if len(loose) == PAGE else None
    now = dialect.read_clock(conn)
    due = (JOBS.c.id.in_(ids), JOBS.c.status == JobStatus.QUEUED, JOBS.c.next_attempt_at <= now)
    lately = () if everything else (JOBS.c.rung_at + JOBS.c.ring_wait_ms <= now,)
    longer = case((JOBS.c.ring_wait_ms == 0, FIRST_RING_WAIT_MS), else_=JOBS.c.ring_wait_ms * 2)
    rung = conn.execute(
        update(JOBS)
        .where(*due, *lately)
        .values(rung_at=now, ring_wait_ms=case((longer > LONGEST_RING_WAIT_MS, LONGEST_RING_WAIT_MS), else_=longer))
        .returning(*COLUMNS)
    )
    return [read_job(row) for row in rung], Place(session_id, job_id)


def oldest_queued_ms(conn: Connection) -> int | None:
    """The age of the oldest job that waits, in milliseconds; None when none does."""
    oldest = conn.execute(OLDEST_QUEUED).scalar_one()
    return None if oldest is None else max(0, dialect.read_clock(conn) - oldest)
