"""What calls cost: added up by job and by day, and held against the caps of projects and teams."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import add

from sqlalchemy import BigInteger, Text, bindparam, delete, func, or_, select, text, update

from onlooker.domain.batching import BYTES_A_TOKEN, EVENT_TOKENS, Batching
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Job, Scope, Usage
from onlooker.domain.spending import (
    NOTHING_SPENT,
    Amount,
    Cap,
    DefaultCaps,
    Period,
    Price,
    day_of,
    first_day,
    rest_of_period_ms,
)
from onlooker.storage import dialect, events
from onlooker.storage.database import Connection
from onlooker.storage.given import Given
from onlooker.storage.jobs import IS_PROCESSING, JOBS
from onlooker.storage.tables import usage_caps, usage_daily

PROMPT_TOKENS = 2_000
"""What a call takes in beside its events: the prompt's unchanging part, and what was noted lately."""

ANSWER_TOKENS = 1_000
"""What an answer takes."""

ROUNDS = 2
"""A call whose answer cannot be used is made once more, with that answer and a complaint behind the same prompt."""

SUMMARY_TOKENS = 6_000
"""What a summary, whose events were not weighed, takes of events."""

IN_FLIGHT_WAIT_MS = 2_000
"""How soon a lane is looked at again that waits for what calls in flight leave of a cap."""

TEAM_WIDE = ""
"""The reach of a team's own cap."""

_COUNTED = ("calls", "input_tokens", "output_tokens", "cached_tokens", "cost_microusd")
_DAILY_KEY = ("project_id", "day", "provider", "model")
_DAILY_NAMES = ("team_id", *_DAILY_KEY, *_COUNTED)

_ADD_TO_DAY = text(
    f"INSERT INTO usage_daily ({', '.join(_DAILY_NAMES)}) VALUES ({', '.join(f':{name}' for name in _DAILY_NAMES)}) "  # noqa: S608 - names of declared columns
    f"ON CONFLICT ({', '.join(_DAILY_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = usage_daily.{name} + excluded.{name}" for name in _COUNTED)
)
_RESERVE = (
    update(JOBS)
    .where(JOBS.c.id == bindparam("of_job"), JOBS.c.project_id == bindparam("of_project"))
    .values(reserved_tokens=bindparam("tokens"), reserved_microusd=bindparam("microusd"))
)
_TOKENS = usage_daily.c.input_tokens + usage_daily.c.output_tokens
_SPENT = select(
    usage_daily.c.project_id,
    usage_daily.c.day,
    func.sum(_TOKENS),
    func.sum(usage_daily.c.cost_microusd),
).where(usage_daily.c.team_id == bindparam("of_team"), usage_daily.c.day >= bindparam("since"))
_SPENT = _SPENT.group_by(usage_daily.c.project_id, usage_daily.c.day)
_RESERVED = (
    select(JOBS.c.project_id, func.sum(JOBS.c.reserved_tokens), func.sum(JOBS.c.reserved_microusd))
    .where(IS_PROCESSING, JOBS.c.team_id == bindparam("of_team"), JOBS.c.reserved_tokens > 0)
    .group_by(JOBS.c.project_id)
)
_CAPS = select(usage_caps.c.reach, usage_caps.c.period, usage_caps.c.unit, usage_caps.c.amount).where(
    usage_caps.c.team_id == bindparam("of_team")
)


@dataclass(frozen=True, slots=True)
class Reached:
    """A cap that lets nothing be spent for `delay_ms`: to the end of its period, or of calls that may use it up."""

    cap: Cap
    delay_ms: int
    by_calls_in_flight: bool


@dataclass(frozen=True, slots=True)
class ModelSpent:
    """What the calls of one model used, and what that cost."""

    provider: str
    model: str
    usage: Usage
    cost_microusd: int

    @property
    def counts(self) -> tuple[int, ...]:
        """In the order of the tables' columns."""
        usage = self.usage
        return (usage.calls, usage.input_tokens, usage.output_tokens, usage.cached_tokens, self.cost_microusd)


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """What a project's calls of one model cost on one day."""

    day: str
    project_id: str
    provider: str
    model: str
    usage: Usage
    cost_microusd: int


@dataclass(frozen=True, slots=True)
class JobSpent:
    """What the calls for a job cost, each model once. `call` names them: what was added last is not added again."""

    job: Job
    call: str
    models: Sequence[ModelSpent]

    @property
    def row(self) -> tuple[str | int, ...]:
        """In the order of the statement."""
        total = (sum(counts) for counts in zip(*(each.counts for each in self.models), strict=True))
        return (self.job.id, self.job.project_id, self.call, *total)


class _Statements:
    """What is done for many jobs at once, built once for a kind of database."""

    def __init__(self, backend: str) -> None:
        counts = {name: BigInteger() for name in _COUNTED}
        self.spent = Given(backend, id=Text(), project_id=Text(), call=Text(), **counts)
        given = self.spent.c
        self.add_to_jobs = (
            update(JOBS)
            .where(
                JOBS.c.id == given.id,
                JOBS.c.project_id == given.project_id,
                or_(JOBS.c.usage_token.is_(None), JOBS.c.usage_token != given.call),
            )
            .values(usage_token=given.call, **{name: JOBS.c[name] + given[name] for name in _COUNTED})
            .returning(JOBS.c.id)
        )


@cache
def _statements_for(backend: str) -> _Statements:
    return _Statements(backend)


def add_usage(conn: Connection, spent: Sequence[JobSpent], *, wall_ms: int) -> None:
    """Add what calls cost to their jobs, each another, and to the day, whoever holds them now.

    A refused answer was paid too.
    """
    if not spent:
        return
    statements = _statements_for(conn.dialect.name)
    given = statements.spent(sorted(each.row for each in spent))
    added = {row[0] for row in dialect.fetch(conn, statements.add_to_jobs, given)}
    day = day_of(wall_ms)
    rows: dict[tuple[str, ...], list[int]] = {}
    for job, models in ((each.job, each.models) for each in spent if each.job.id in added):
        for of_model in models:
            row = rows.setdefault(
                (job.team_id, job.project_id, day, of_model.provider, of_model.model), [0] * len(_COUNTED)
            )
            row[:] = map(add, row, of_model.counts)
    # In one order for all: two that add to the same rows do not wait for each other.
    for key, counts in sorted(rows.items()):
        dialect.change(conn, _ADD_TO_DAY, dict(zip(_DAILY_NAMES, (*key, *counts), strict=True)))


def estimate_of(conn: Connection, run: Sequence[Job], batching: Batching, prices: Sequence[Price]) -> Amount:
    """What the call for a run may take of a cap with its repair, at the dearest of the prices.

    A job of many events takes several calls.
    """
    calls, tokens = 1, 0
    for job in run:
        if job.kind is JobKind.EVENT_BATCH:
            lengths = events.lengths_of_batch(conn, job.scope, job.source_id)
            calls = max(1, -(-len(lengths) // batching.longest_run))
            tokens += sum(_tokens_of(length) for length in lengths)
        else:
            tokens += _tokens_of(job.source_bytes) if job.source_bytes else SUMMARY_TOKENS
    tokens_in = ROUNDS * (calls * PROMPT_TOKENS + min(tokens, calls * batching.input_budget)) + calls * ANSWER_TOKENS
    # The unchanging part of a prompt may have to be written into the provider's cache.
    usage = Usage(ROUNDS * calls, tokens_in, ROUNDS * calls * ANSWER_TOKENS, written_tokens=calls * PROMPT_TOKENS)
    money = max((price.cost_microusd(usage) for price in prices), default=0)
    return Amount(tokens_in + usage.output_tokens, money)


def _tokens_of(length: int) -> int:
    return min(length // BYTES_A_TOKEN, EVENT_TOKENS)


def reserve(conn: Connection, head: Job, amount: Amount) -> None:
    """Count so much as spent for as long as the head's lease is not ended."""
    given = {"of_job": head.id, "of_project": head.project_id}
    dialect.change(conn, _RESERVE, {**given, "tokens": amount.tokens, "microusd": amount.microusd})


def held_by_cap(
    conn: Connection, head: Job, of_project: DefaultCaps, of_team: DefaultCaps, wall_ms: int
) -> Reached | None:
    """What keeps the head from costing anything now; None where nothing does. One process asks for a team at a time."""
    dialect.lock_keys(conn, [f"caps:{head.team_id}"])
    caps = caps_of(conn, head.scope, of_project, of_team)
    # Before what is spent: a call that ends between the two looks is then counted twice, and not missed.
    in_flight = _reserved(conn, head.scope)
    spent = spent_of(conn, head.scope, wall_ms)
    if reached := _used_up(caps, spent):
        last = max(reached, key=lambda cap: rest_of_period_ms(cap.period, wall_ms))
        return Reached(last, rest_of_period_ms(last.period, wall_ms), by_calls_in_flight=False)
    bound = {cap: spent[cap.project_id, cap.period] + in_flight[cap.project_id] for cap in caps}
    close = [cap for cap in caps if cap.is_reached(cap.counts(bound[cap]))]
    return Reached(close[0], IN_FLIGHT_WAIT_MS, by_calls_in_flight=True) if close else None


def is_used_up(conn: Connection, scope: Scope, caps: Sequence[Cap], wall_ms: int) -> bool:
    """Whether one of these caps is reached by what is spent, whatever calls in flight may take."""
    return bool(_used_up(caps, spent_of(conn, scope, wall_ms)))


Spent = dict[tuple[str | None, Period], Amount]
"""By project (None: the whole team) and period."""


def _used_up(caps: Sequence[Cap], spent: Spent) -> list[Cap]:
    return [cap for cap in caps if cap.is_reached(cap.counts(spent[cap.project_id, cap.period]))]


def spent_of(conn: Connection, scope: Scope, wall_ms: int) -> Spent:
    """What a project and its team have spent in the day and the month in which a time lies."""
    today, month = day_of(wall_ms), first_day(Period.MONTH, wall_ms)
    spent: Spent = {(reach, period): NOTHING_SPENT for reach in (scope.project_id, None) for period in Period}
    for project_id, day, tokens, microusd in conn.execute(_SPENT, {"of_team": scope.team_id, "since": month}):
        for reach in _reaches(scope, project_id):
            for period in (Period.DAY, Period.MONTH) if day == today else (Period.MONTH,):
                spent[reach, period] += Amount(int(tokens), int(microusd))
    return spent


def _reserved(conn: Connection, scope: Scope) -> dict[str | None, Amount]:
    """What calls in flight may take, of a project and of its team (None)."""
    reserved: dict[str | None, Amount] = {scope.project_id: NOTHING_SPENT, None: NOTHING_SPENT}
    for project_id, tokens, microusd in conn.execute(_RESERVED, {"of_team": scope.team_id}):
        for reach in _reaches(scope, project_id):
            reserved[reach] += Amount(int(tokens), int(microusd))
    return reserved


def _reaches(scope: Scope, project_id: str) -> Sequence[str | None]:
    """Whose what a project of the scope's team spends is: the scope's own project's too, or only the team's."""
    return (project_id, None) if project_id == scope.project_id else (None,)


def caps_of(conn: Connection, scope: Scope, of_project: DefaultCaps, of_team: DefaultCaps) -> list[Cap]:
    """The caps of a project and of its team: their own, else those that the settings say."""
    caps = {
        (cap.project_id or TEAM_WIDE, cap.period, cap.unit): cap
        for cap in (*of_project.of(scope.project_id), *of_team.of(None))
    }
    for reach, period, unit, amount in conn.execute(_CAPS, {"of_team": scope.team_id}):
        if reach in {scope.project_id, TEAM_WIDE}:
            caps[reach, Period(period), unit] = Cap(reach or None, Period(period), unit, amount)
    return [cap for cap in caps.values() if cap.amount]


def any_cap_in_dollars(conn: Connection) -> bool:
    """Whether a team or project has one of its own."""
    found = select(usage_caps.c.team_id).where(usage_caps.c.unit == "microusd", usage_caps.c.amount > 0).limit(1)
    return conn.execute(found).one_or_none() is not None


def set_cap(conn: Connection, team_id: str, cap: Cap, *, remove: bool = False) -> None:
    """Give a project or a team a cap of its own in place of its last; `remove` gives it back to the settings."""
    key = (team_id, cap.project_id or TEAM_WIDE, str(cap.period), cap.unit)
    names = ("team_id", "reach", "period", "unit")
    conn.execute(
        delete(usage_caps).where(*(usage_caps.c[name] == value for name, value in zip(names, key, strict=True)))
    )
    if not remove:
        dialect.insert_new(conn, usage_caps, (*names, "amount"), [(*key, cap.amount)])


def list_usage(
    conn: Connection, team_id: str, project_id: str | None, *, since: str | None, until: str | None
) -> list[DayOfUse]:
    """A team's use by day, project, provider and model, the latest day first; days as `2026-03-31`, both included."""
    conditions = [usage_daily.c.team_id == team_id]
    if project_id is not None:
        conditions.append(usage_daily.c.project_id == project_id)
    if since is not None:
        conditions.append(usage_daily.c.day >= since)
    if until is not None:
        conditions.append(usage_daily.c.day <= until)
    rows = conn.execute(
        select(*(usage_daily.c[name] for name in _DAILY_NAMES))
        .where(*conditions)
        .order_by(usage_daily.c.day.desc(), *(usage_daily.c[name] for name in ("project_id", "provider", "model")))
    )
    return [
        DayOfUse(
            row.day,
            row.project_id,
            row.provider,
            row.model,
            Usage(row.calls, row.input_tokens, row.output_tokens, row.cached_tokens),
            row.cost_microusd,
        )
        for row in rows
    ]
