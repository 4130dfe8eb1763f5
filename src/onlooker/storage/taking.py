"""Take a lane's head: the one transaction that decides who works on what (R2, R3, R4, R6), and whether it may cost.

What a policy or a cap forbids now is not taken: the lane is looked at again later.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Integer,
    Select,
    Text,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from onlooker.domain.batching import Batching, GenerationPolicy, Settling, choose_run
from onlooker.domain.jobs import CALLS_A_MODEL, JobStatus
from onlooker.domain.models import Job
from onlooker.domain.spending import NO_CAPS, NOTHING_SPENT, Amount, DefaultCaps, Price
from onlooker.storage import dialect, spending
from onlooker.storage.database import Connection
from onlooker.storage.given import Given
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

LAST_SEQ = (1 << 63) - 1

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


@dataclass(frozen=True, slots=True)
class Wanted:
    """The head of the lane that a job's message stands in, to be taken under a token of its own."""

    session_id: str | None
    job_id: str
    token: str

    @property
    def lane(self) -> str:
        """What no other of those that are taken together may have too."""
        return self.session_id or self.job_id


Answer = Taken | Later | Literal["nothing"]


_AROUND = select(
    dialect.database_now(),
    projects.c.name,
    projects.c.generation_policy,
    exists().where(usage_caps.c.team_id == bindparam("of_team")),
    select(api_keys.c.revoked_at)
    .where(api_keys.c.id == bindparam("of_key"), api_keys.c.team_id == bindparam("of_team"))
    .scalar_subquery(),
).where(projects.c.id == bindparam("of_project"), projects.c.team_id == bindparam("of_team"))
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


class _Statements:
    """What is done for many lanes at once, built once for a kind of database."""

    def __init__(self, backend: str) -> None:
        self.ids = Given(backend, id=Text())
        self.fresh = Given(backend, id=Text(), token=Text())
        self.live = _live_of(select(self.ids.c.id.label("session_id")))
        self.themselves = select(*COLUMNS).where(JOBS.c.id.in_(select(self.ids.c.id)), IS_LIVE)
        is_free = or_(JOBS.c.status == JobStatus.QUEUED, IS_PROCESSING & (JOBS.c.lease_until <= bindparam("at")))
        self.take = (
            update(JOBS)
            .where(JOBS.c.id == self.fresh.c.id, is_free)
            .values(
                status=JobStatus.PROCESSING,
                lease_token=self.fresh.c.token,
                lease_until=bindparam("until"),
                leased_by=bindparam("by_worker"),
                held_reason=None,
                attempts=JOBS.c.attempts + 1,
                rung_at=0,
                ring_wait_ms=0,
                started_at=func.coalesce(JOBS.c.started_at, bindparam("at")),
                updated_at=bindparam("at"),
            )
            .returning(JOBS.c.id)
        )


def _live_of(sessions: Select[Any]) -> CompoundSelect[Any]:
    """The first jobs of each of these sessions, and whatever else of it is processing."""
    job = JOBS.alias("job")
    is_live: ColumnElement[bool] = literal_column("job.status IN ('queued', 'processing')")
    last = select(job.c.seq).where(job.c.session_id == sessions.selected_columns.session_id, is_live)
    last = last.order_by(job.c.seq).limit(1).offset(bindparam("most_but_one", type_=Integer()))
    # Once a lane, before its jobs are read: as a condition of theirs it would be looked for at each of them.
    lanes = sessions.add_columns(last.scalar_subquery().label("last")).cte("lanes").prefix_with("MATERIALIZED")
    of_lane = JOBS.c.session_id == lanes.c.session_id
    first = select(*COLUMNS).join(lanes, of_lane).where(IS_LIVE, JOBS.c.seq <= func.coalesce(lanes.c.last, LAST_SEQ))
    others = select(*COLUMNS).join(lanes, of_lane).where(IS_PROCESSING, JOBS.c.seq > lanes.c.last)
    return first.union_all(others)


@cache
def _statements_for(backend: str) -> _Statements:
    return _Statements(backend)


def take(conn: Connection, wanted: Wanted, terms: Terms, *, wall_ms: int) -> Answer:
    """Take the head of a lane; of one with no session, the job itself. Waits for whoever has the session locked.

    `wall_ms` is the time of day, by which caps count their days. A job that failed, or that took its worker down, is
    alone the next time (R6).
    """
    if wanted.session_id is not None:
        dialect.lock_keys(conn, [session_lock(wanted.session_id)])
    return take_locked(conn, [wanted], terms, wall_ms=wall_ms)[0]


def take_locked(conn: Connection, wanted: Sequence[Wanted], terms: Terms, *, wall_ms: int) -> list[Answer]:
    """Take the heads of many lanes, each another, whose sessions are locked; the answers in their order. See `take`."""
    live = _live(conn, wanted, terms.batching.most_looked_at)
    look_around = _Around(conn)
    answers: dict[str, Answer] = {}
    choices: list[_Choice] = []
    for each in wanted:
        decided = _decide(conn, each, live[each.lane], look_around, terms, wall_ms)
        if not isinstance(decided, _Choice):
            answers[each.lane] = decided
        elif decided.reserved == NOTHING_SPENT:
            choices.append(decided)
        else:
            # Before the next is decided, which has the same cap.
            answers |= _write(conn, [decided], terms, look_around.now)
    if choices:
        answers |= _write(conn, choices, terms, look_around.now)
    return [answers[each.lane] for each in wanted]


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is to be taken of a lane, and what of a cap it may take."""

    lane: str
    run: Taken
    reserved: Amount


class _Around:
    """What else counts, looked up once for all heads that are alike; `now` is the same for all."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._known: dict[tuple[str, str, str | None], _Circumstances] = {}
        self.now = 0

    def __call__(self, head: Job) -> _Circumstances:
        alike = head.project_id, head.team_id, head.api_key_id
        if alike not in self._known:
            given = dict(zip(("of_project", "of_team", "of_key"), alike, strict=True))
            found = _Circumstances(*dialect.fetch(self._conn, _AROUND, given)[0])
            self.now = self.now or found.now
            self._known[alike] = replace(found, now=self.now)
        return self._known[alike]


def _decide(
    conn: Connection, wanted: Wanted, live: Sequence[Job], look_around: _Around, terms: Terms, wall_ms: int
) -> "_Choice | Later | Literal['nothing']":
    """What to take of a lane with these live jobs; a head that nobody may take is ended, and the next one is it."""
    while live:
        head = live[0]
        around = look_around(head)
        if others := [job for job in live[1:] if job.status is JobStatus.PROCESSING]:
            if alive := [job for job in others if (job.lease_until or 0) > around.now]:
                return Later(min(BUSY_SESSION_MS, *((job.lease_until or 0) - around.now for job in alive)))
            # A head whose lease is over is taken over below, which is one write less.
            requeue(conn, others, around.now, event="lease-expired")
        elif head.status is JobStatus.PROCESSING and (head.lease_until or 0) > around.now:
            return Later(min((head.lease_until or 0) - around.now, BUSY_SESSION_MS))
        elif head.attempts >= head.max_attempts:
            finish(conn, [head], JobStatus.FAILED, around.now, error=LEASE_EXPIRED)
        elif around.revoked_at is not None:
            finish(conn, [head], JobStatus.CANCELLED, around.now, error=KEY_REVOKED)
        elif head.status is JobStatus.QUEUED and head.next_attempt_at > around.now:
            return Later(head.next_attempt_at - around.now)
        else:
            return _choose(conn, wanted, live, around, terms, wall_ms)
        live = _live(conn, [wanted], terms.batching.most_looked_at)[wanted.lane]
    return NOTHING


def _live(conn: Connection, wanted: Sequence[Wanted], most: int) -> dict[str, list[Job]]:
    """The live jobs of each lane in order: the first `most`, and what else is processing."""
    statements = _statements_for(conn.dialect.name)
    live: dict[str, list[Job]] = {each.lane: [] for each in wanted}
    sessions = [(each.session_id,) for each in wanted if each.session_id is not None]
    themselves = [(each.job_id,) for each in wanted if each.session_id is None]
    rows: list[Any] = []
    if sessions:
        rows += dialect.fetch(conn, statements.live, statements.ids(sessions, most_but_one=most - 1))
    if themselves:
        rows += dialect.fetch(conn, statements.themselves, statements.ids(themselves))
    for job in sorted(map(read_job, rows), key=lambda job: job.seq or 0):
        live[job.session_id or job.id].append(job)
    return live


def _choose(
    conn: Connection, wanted: Wanted, live: Sequence[Job], around: _Circumstances, terms: Terms, wall_ms: int
) -> _Choice | Later:
    """The run that begins with the head, unless something says to wait."""
    head, now = live[0], around.now
    batching = terms.batching
    if around.policy is not None:
        batching = replace(batching, policy=GenerationPolicy(around.policy))
        if batching.most > terms.batching.most:
            live = _live(conn, [wanted], batching.most_looked_at)[wanted.lane]
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
    taken = Taken(tuple(run), wanted.token, batching.policy, around.project_name)
    return _Choice(wanted.lane, taken, reserved)


def _hold(conn: Connection, head: Job, reason: str, now: int, *, due: int) -> None:
    """Park the head by its row (R9). What a cap holds is no outage: no end of one makes it due."""
    given = {"of_job": head.id, "of_project": head.project_id, "why": reason, "due": due, "at": now}
    if head.status is JobStatus.PROCESSING:
        requeue(conn, [head], now, event="lease-expired")
    dialect.change(conn, _HOLD, given)
    note(conn, [head], "held", now, reason)


def _write(conn: Connection, choices: Sequence[_Choice], terms: Terms, now: int) -> dict[str, Answer]:
    """Take what was chosen; by lane what is taken now. A job of no session has no lock: somebody may be faster."""
    until = now + terms.lease_ms
    statements = _statements_for(conn.dialect.name)
    fresh = sorted((job.id, choice.run.token) for choice in choices for job in choice.run.jobs)
    given = statements.fresh(fresh, by_worker=terms.worker, until=until, at=now)
    got = {row[0] for row in dialect.fetch(conn, statements.take, given)}
    answers: dict[str, Answer] = {}
    for choice in choices:
        if got.issuperset(choice.run.ids):
            answers[choice.lane] = _taken(choice.run, terms, now=now, until=until)
            if choice.reserved != NOTHING_SPENT:
                spending.reserve(conn, choice.run.head, choice.reserved)
        else:
            answers[choice.lane] = Later(BUSY_SESSION_MS)
    taken = [job for choice in choices for job in choice.run.jobs if job.id in got]
    note(conn, taken, "taken", now)
    return answers


def _taken(run: Taken, terms: Terms, *, now: int, until: int) -> Taken:
    """A run as it is stored now."""
    jobs = [
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
    return replace(run, jobs=tuple(jobs))
