"""From waiting jobs to notes with a provider that costs something: runs, splits, caps, repetitions, pauses."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from sqlalchemy import delete, select

from observed import new_event, new_scope, store, terms_of
from onlooker.domain.batching import EVENT_TOKENS, Batching, GenerationPolicy
from onlooker.domain.errors import Busy, Exhausted, ProviderError, TooLong, Unreadable
from onlooker.domain.jobs import JobKind, JobStatus
from onlooker.domain.lanes import LaneState
from onlooker.domain.models import (
    Draft,
    Event,
    Job,
    ModelUse,
    NewEvent,
    Observation,
    ObservationKind,
    Principal,
    Scope,
    SearchFilter,
    Usage,
)
from onlooker.domain.spending import MICRO, Cap, DefaultCaps, Period, Price, day_of
from onlooker.host import ProcessIdentity, new_id, now_ms
from onlooker.http.schemas import ObservationView
from onlooker.providers.contract import CallsNobody, GenerationAnswer, GenerationRequest
from onlooker.queue.sql import SqlQueue
from onlooker.services.generate import Generate
from onlooker.services.jobs import Jobs
from onlooker.services.outbox import Outbox
from onlooker.services.rendering import note_line
from onlooker.services.runs import Run
from onlooker.services.usage import Spending
from onlooker.storage import accounts, jobs, observations, sessions, spending
from onlooker.storage.database import Connection, Database, open_database
from onlooker.storage.search import search
from onlooker.storage.spending import JobSpent, ModelSpent
from onlooker.storage.tables import agent_events, observation_generation_job_events
from onlooker.worker import Worker
from waiting import wait_until

COST = Usage(calls=1, input_tokens=800, output_tokens=200, cached_tokens=300)
PRICE = Price(input=1, output=2, cached=0.5)
COST_MICROUSD = PRICE.cost_microusd(COST)
USES = (ModelUse("paid", "m-1", COST),)
HELD_MS = 60_001

T = TypeVar("T")

Answer = Callable[[GenerationRequest], Awaitable[GenerationAnswer]]


def one_note_an_event(request: GenerationRequest) -> GenerationAnswer:
    drafts = [
        Draft(ObservationKind.CHANGE, f"note of {each.id}", sources=(n,)) for n, each in enumerate(request.events)
    ]
    return GenerationAnswer(tuple(drafts), USES, model="m-1")


def paid(error: ProviderError, *uses: ModelUse) -> ProviderError:
    """The error of calls that were paid all the same."""
    error.uses = uses or USES
    return error


@dataclass
class PaidProvider(CallsNobody):
    """Answers as the test says; its calls cost `COST`. `back` tells that it takes calls again."""

    answer: Answer | None = None
    longest_run: int = 10
    name: str = "paid"
    prompt_version: str = "paid-1"
    input_budget: int = 1_000
    asked: list[GenerationRequest] = field(default_factory=list)
    back: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(self, request: GenerationRequest) -> GenerationAnswer:
        self.asked.append(request)
        return one_note_an_event(request) if self.answer is None else await self.answer(request)

    def weigh(self, event: Event) -> int:
        return 100

    def lanes(self) -> tuple[LaneState, ...]:
        return (LaneState("paid", "here", "m"),)

    async def recovered(self) -> None:
        await self.back.wait()
        self.back.clear()

    @property
    def asked_about(self) -> list[list[str]]:
        return [[event.id for event in request.events] for request in self.asked]


@dataclass
class Rig:
    """A worker with its parts."""

    database: Database
    outbox: Outbox
    worker: Worker
    jobs: Jobs

    async def work(self, until: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(self.worker.run(stop))
        try:
            await wait_until(until, timeout_s=timeout_s)
        finally:
            stop.set()
            await running

    async def finish(self, *made: Job) -> None:
        await self.outbox.publish(made)
        await self.work(lambda: all_settled(self.database, made))


@asynccontextmanager
async def rig(database: Database, provider: PaidProvider, **given: Any) -> AsyncIterator[Rig]:
    identity = ProcessIdentity.of_this_process()
    queue = SqlQueue(database, identity=identity)
    outbox = Outbox(database, queue)
    terms = terms_of(worker=str(identity), longest_run=provider.longest_run, spends=True, **given)
    terms = replace(terms, batching=replace(terms.batching, input_budget=provider.input_budget))
    prices = {"m": PRICE, "dear": Price(input=10, output=20, cached=5)}
    terms = replace(terms, prices=[PRICE])
    generate = Generate(database, provider, terms=terms, new_id=new_id, now_ms=now_ms, prices=prices)
    worker = Worker(database, queue, generate, outbox, str(identity), new_id(), concurrency=4)
    try:
        yield Rig(database, outbox, worker, Jobs(database, outbox))
    finally:
        await queue.close()


async def all_settled(database: Database, made: Sequence[Job]) -> bool:
    found = await database.read(lambda conn: jobs.statuses(conn, [job.id for job in made]))
    return all(status not in {JobStatus.QUEUED, JobStatus.PROCESSING} for status in found.values())


async def read(database: Database, job: Job) -> Job:
    return await database.read(lambda conn: jobs.get(conn, job.scope, job.id))


async def is_held(database: Database, job: Job) -> bool:
    return (await read(database, job)).held_reason is not None


async def history(database: Database, job: Job) -> list[str]:
    table = observation_generation_job_events
    steps = select(table.c.event).where(table.c.job_id == job.id).order_by(table.c.id)
    return list(await database.read(lambda conn: conn.execute(steps).scalars().all()))


async def notes_of(database: Database, job: Job) -> list[tuple[Observation, list[str]]]:
    """The session's notes and the events that each is about."""

    def look(conn: Connection) -> list[tuple[Observation, list[str]]]:
        found = observations.observations_of_session(conn, job.scope, job.session_id or "", limit=100)
        sources = observations.sources_of_observations(conn, job.scope, [note.id for note in found])
        return [(note, [source.source_id for source in sources[note.id]]) for note in found]

    return await database.read(look)


def use(scope: Scope, tool: str, *, output: str = "out", session: str = "s", **tool_input: str) -> NewEvent:
    payload = {"tool_name": tool, "tool_input": tool_input, "tool_response": output}
    return new_event(scope, session, payload_json=json.dumps(payload))


async def session_of(database: Database, count: int, *, session: str = "s", scope: Scope | None = None) -> list[Job]:
    of = scope or await new_scope(database)
    return await store(database, *(new_event(of, session) for _ in range(count)))


async def test_what_another_has_locked_is_taken_and_stored_once_it_is_free(postgres_database_prepared: str) -> None:
    async with open_database(postgres_database_prepared) as database, rig(database, PaidProvider()) as it:
        [job] = await session_of(database, 1)

        async def while_locked(work: Awaitable[T]) -> T:
            locked = asyncio.Event()

            def hold(conn: Connection) -> None:
                sessions.lock_for(conn, [job.session_id], waits=True)
                locked.set()
                conn.exec_driver_sql("SELECT pg_sleep(0.5)").all()

            async with open_database(postgres_database_prepared) as other:
                holding = asyncio.create_task(other.tx(hold))
                await locked.wait()
                working = asyncio.ensure_future(work)
                await asyncio.sleep(0.1)
                assert not working.done()
                await holding
                return await working

        run = await while_locked(it.worker.generate.runs.take(job.session_id, job.id))
        assert isinstance(run, Run)
        await while_locked(it.worker.generate.run(run))
        assert [note.title for note, _ in await notes_of(database, job)] == [f"note of {job.source_id}"]


async def test_a_run_holds_no_more_than_its_events_may_weigh(database: Database) -> None:
    made = await session_of(database, 5)
    provider = PaidProvider(input_budget=250)
    async with rig(database, provider) as it:
        await it.finish(*made)
    ids = [job.source_id for job in made]
    assert provider.asked_about == [ids[0:2], ids[2:4], ids[4:5]]
    assert [(note.title, sources) for note, sources in await notes_of(database, made[0])] == [
        (f"note of {event}", [event]) for event in ids
    ]


async def test_what_is_too_long_is_split_in_two_until_it_fits(database: Database) -> None:
    made = await session_of(database, 4)

    async def at_most_one(request: GenerationRequest) -> GenerationAnswer:
        if len(request.events) > 1:
            raise paid(TooLong("context"))
        return one_note_an_event(request)

    provider = PaidProvider(at_most_one)
    async with rig(database, provider) as it:
        await it.finish(*made)
    ids = [job.source_id for job in made]
    assert provider.asked_about[:3] == [ids, ids[:2], ids[:1]]
    assert len(await notes_of(database, made[0])) == 4
    told = [await read(database, job) for job in made]
    assert [(job.status, job.attempts, job.failures) for job in told] == [(JobStatus.COMPLETED, 1, 0)] * 4
    assert sum(job.calls for job in told) == len(provider.asked)


async def test_a_single_event_that_is_too_long_has_failed(database: Database) -> None:
    (job,) = await session_of(database, 1)

    async def never(_request: GenerationRequest) -> GenerationAnswer:
        raise TooLong("context")

    async with rig(database, PaidProvider(never)) as it:
        await it.finish(job)
    dead = await read(database, job)
    assert (dead.status, dead.last_error) == (JobStatus.FAILED, "TooLong: context")


async def test_after_an_answer_that_was_cut_the_rest_of_the_run_is_asked_about_again(database: Database) -> None:
    made = await session_of(database, 3)
    provider = PaidProvider()

    async def cut_once(request: GenerationRequest) -> GenerationAnswer:
        whole = one_note_an_event(request)
        return replace(whole, drafts=whole.drafts[:2], answered=2) if len(provider.asked) == 1 else whole

    provider.answer = cut_once
    async with rig(database, provider) as it:
        await it.finish(*made)
    ids = [job.source_id for job in made]
    assert provider.asked_about == [ids, ids[2:]]
    assert [sources for _, sources in await notes_of(database, made[0])] == [[each] for each in ids]
    assert (await read(database, made[2])).attempts == 1


async def test_what_needs_no_model_is_folded_without_a_call(database: Database) -> None:
    scope = await new_scope(database)
    made = await store(database, use(scope, "Bash", command="ls -la"), use(scope, "Glob", pattern="*.py"))
    provider = PaidProvider()
    async with rig(database, provider) as it:
        await it.finish(*made)
    assert provider.asked == []
    assert [(await read(database, job)).status for job in made] == [JobStatus.COMPLETED] * 2
    assert await notes_of(database, made[0]) == []


async def test_a_repeated_read_is_a_further_source_of_what_the_first_one_gave(database: Database) -> None:
    scope = await new_scope(database)
    again = {"file_path": "a.py", "output": "text"}
    first, edit, listing, repeated = made = await store(
        database, use(scope, "Read", **again), use(scope, "Edit", file_path="b.py"),
        use(scope, "LS", path="."), use(scope, "Read", **again),
    )  # fmt: skip
    provider = PaidProvider()
    async with rig(database, provider) as it:
        await it.finish(*made)
    assert provider.asked_about == [[first.source_id, edit.source_id]]
    told = {note.title: sources for note, sources in await notes_of(database, first)}
    assert sorted(told[f"note of {first.source_id}"]) == sorted([first.source_id, repeated.source_id])
    assert (await read(database, listing)).status is JobStatus.COMPLETED


async def test_sources_that_name_no_event_are_dropped_and_none_means_all(database: Database) -> None:
    made = await session_of(database, 2)

    async def vague(_request: GenerationRequest) -> GenerationAnswer:
        return GenerationAnswer(
            (
                Draft(ObservationKind.CHANGE, "one", sources=(7, 1, -1)),
                Draft(ObservationKind.BUGFIX, "two", sources=(9,)),
            )
        )

    async with rig(database, PaidProvider(vague)) as it:
        await it.finish(*made)
    told = {note.title: sorted(sources) for note, sources in await notes_of(database, made[0])}
    assert told == {"one": [made[1].source_id], "two": sorted(job.source_id for job in made)}


async def test_what_the_session_said_lately_is_linked_and_not_stored_again(database: Database) -> None:
    scope = await new_scope(database)
    first, *others = await session_of(database, 3, scope=scope)
    provider = PaidProvider(longest_run=1)
    titles = iter(["The parser retries", "the parser retries.", "The lexer retries"])

    async def say(_request: GenerationRequest) -> GenerationAnswer:
        return GenerationAnswer((Draft(ObservationKind.CHANGE, next(titles), facts=()),))

    provider.answer = say
    async with rig(database, provider) as it:
        await it.finish(first, *others)
    told = [(note.title, sources) for note, sources in await notes_of(database, first)]
    assert told == [
        ("The parser retries", [first.source_id, others[0].source_id]),
        ("The lexer retries", [others[1].source_id]),
    ]
    (elsewhere,) = await session_of(database, 1, session="other", scope=scope)
    titles = iter(["The parser retries"])
    async with rig(database, provider) as it:
        await it.finish(elsewhere)
    assert len(await notes_of(database, elsewhere)) == 1


async def test_sessions_that_are_taken_together_see_what_they_said_and_nothing_of_each_other(
    database: Database,
) -> None:
    scope, foreign = await new_scope(database), await new_scope(database)
    made = [
        await session_of(database, 3, session=session, scope=of)
        for session, of in (("a", scope), ("b", scope), ("c", foreign))
    ]
    provider = PaidProvider(longest_run=1)
    async with rig(database, provider) as it:
        generate = it.worker.generate
        for count in range(3):
            runs = await asyncio.gather(*(generate.runs.take(of_one[0].session_id, of_one[0].id) for of_one in made))
            taken = [run for run in runs if isinstance(run, Run)]
            assert [run.taken.ids for run in taken] == [[of_one[count].id] for of_one in made]
            await asyncio.gather(*(generate.run(run) for run in taken))
    for of_one in made:
        asked = [request for request in provider.asked if request.session_id == of_one[0].session_id]
        titles = [f"note of {job.source_id}" for job in of_one]
        assert [[note.title for note in request.recent] for request in asked] == [titles[:count] for count in range(3)]
        assert [sources for _, sources in await notes_of(database, of_one[0])] == [[job.source_id] for job in of_one]


async def test_a_note_may_replace_one_that_the_model_was_shown_and_no_other(database: Database) -> None:
    scope = await new_scope(database)
    (foreign,) = await session_of(database, 1, session="other", scope=scope)
    first, second = await session_of(database, 2, scope=scope)
    provider = PaidProvider(longest_run=1)
    async with rig(database, provider) as it:
        await it.finish(foreign)
        (not_shown, _), *_ = await notes_of(database, foreign)

        async def correct(request: GenerationRequest) -> GenerationAnswer:
            replaced = (*(note.id for note in request.recent), not_shown.id)
            return GenerationAnswer(
                (Draft(ObservationKind.CHANGE, f"about {request.events[0].id}", supersedes=replaced),)
            )

        provider.answer = correct
        await it.finish(first, second)
    (old, _), (new, _) = await notes_of(database, first)
    assert (old.superseded_by, new.superseded_by) == (new.id, None)
    kept, every = SearchFilter(), SearchFilter(superseded=True)
    for wanted, found in ((kept, [new.id]), (every, [new.id, old.id])):
        hits = await database.read(lambda conn: search(conn, scope, "about", wanted, limit=9))  # noqa: B023 - awaited
        assert [hit for hit, _ in hits if hit in {old.id, new.id}] == found
    assert (await notes_of(database, foreign))[0][0].superseded_by is None


async def test_calls_are_counted_by_job_day_and_model_with_what_they_cost(database: Database) -> None:
    made = await session_of(database, 2)
    failed = False

    async def fail_first(request: GenerationRequest) -> GenerationAnswer:
        nonlocal failed
        if not failed:
            failed = True
            raise paid(Unreadable("prose"))
        return one_note_an_event(request)

    async with rig(database, PaidProvider(fail_first, longest_run=1)) as it:
        await it.finish(*made)
    told = [await read(database, job) for job in made]
    assert [(job.calls, job.input_tokens, job.output_tokens, job.cached_tokens) for job in told] == [
        (2, 1_600, 400, 600), (1, 800, 200, 300),
    ]  # fmt: skip
    assert [job.cost_microusd for job in told] == [2 * COST_MICROUSD, COST_MICROUSD]
    days = await database.read(lambda conn: spending.list_usage(conn, made[0].team_id, None, since=None, until=None))
    assert {(day.day, day.provider) for day in days} == {(day_of(now_ms()), "paid")}
    assert sum(day.usage.calls for day in days) == 3


async def test_each_provider_and_model_of_a_run_is_counted_as_itself_at_its_own_price(database: Database) -> None:
    (job,) = await session_of(database, 1)
    in_vain = ModelUse("first", "dear-2", COST)
    unpriced = ModelUse("paid", "as-the-endpoint-calls-it", COST)

    async def fail_over(request: GenerationRequest) -> GenerationAnswer:
        return replace(one_note_an_event(request), uses=(in_vain, unpriced, unpriced), provider="paid")

    async with rig(database, PaidProvider(fail_over)) as it:
        await it.finish(job)
    days = await database.read(lambda conn: spending.list_usage(conn, job.team_id, None, since=None, until=None))
    assert [(day.provider, day.model, day.usage.calls, day.cost_microusd) for day in days] == [
        ("first", "dear-2", 1, 10 * COST_MICROUSD),
        ("paid", "as-the-endpoint-calls-it", 2, 2 * COST_MICROUSD),
    ]
    told = await read(database, job)
    assert (told.calls, told.cost_microusd) == (3, 12 * COST_MICROUSD)


@pytest.mark.parametrize(
    "caps", [DefaultCaps(daily_tokens=5_000), DefaultCaps(monthly_usd=5 * COST_MICROUSD / MICRO)], ids=["tokens", "usd"]
)
async def test_a_cap_is_not_overrun_however_many_workers_there_are(
    database: Database, caps: DefaultCaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "IN_FLIGHT_WAIT_MS", 20)
    scope = await new_scope(database)
    made = [(await session_of(database, 1, session=f"s{n}", scope=scope))[0] for n in range(30)]

    async def take_time(request: GenerationRequest) -> GenerationAnswer:
        await asyncio.sleep(0.1)
        return one_note_an_event(request)

    provider = PaidProvider(take_time)
    async with AsyncExitStack() as stack:
        rigs = [await stack.enter_async_context(rig(database, provider, team_caps=caps)) for _ in range(4)]
        await rigs[0].outbox.publish(made)
        await asyncio.gather(*(each.work(lambda: settled_or_held(database, made)) for each in rigs))
    assert len(provider.asked) == 5
    told = [await read(database, job) for job in made]
    assert sum(job.status is JobStatus.COMPLETED for job in told) == 5


async def test_what_was_not_weighed_is_reserved_for_as_what_a_summary_takes(database: Database) -> None:
    (job,) = await session_of(database, 1)
    long, unknown = job._replace(source_bytes=1_000_000), job._replace(source_bytes=0)

    call = await reserved(database)
    assert await reserved(database, long, long) - call == 2 * (2 * EVENT_TOKENS)
    assert await reserved(database, unknown) - call == 2 * spending.SUMMARY_TOKENS
    assert await reserved(database, unknown, budget=500) - call == 2 * 500


async def reserved(database: Database, *run: Job, budget: int = 100_000) -> int:
    """The tokens that are reserved for a run, where a call takes ten events."""
    batching = Batching(GenerationPolicy.BATCH, longest_run=10, input_budget=budget)
    return (await database.read(lambda conn: spending.estimate_of(conn, run, batching, []))).tokens


async def test_a_call_reserves_for_being_repaired_too(database: Database) -> None:
    (job,) = await session_of(database, 1)
    asked = await reserved(database, job._replace(source_bytes=3_000)) - await reserved(database)
    assert asked == 2 * 1_000
    once = spending.PROMPT_TOKENS + spending.ANSWER_TOKENS
    assert await reserved(database) >= 2 * once + spending.ANSWER_TOKENS


async def test_a_job_that_takes_several_calls_reserves_for_each_of_them(database: Database) -> None:
    scope = await new_scope(database)
    long = {"payload_json": '{"tool_name":"' + "x" * 100_000 + '"}'}
    made = [
        (await store(database, *(new_event(scope, None, batch=name, **given) for _ in range(count))))[0]
        for name, count, given in (("one", 10, {}), ("three", 25, {}), ("long", 25, long))
    ]
    one, three, longest = [await reserved(database, job, budget=5_000) for job in made]
    call = await reserved(database)
    assert call < one < call + 1_000
    assert 3 * call < three < 3 * (call + 1_000)
    assert longest == 3 * (call + 2 * 5_000)


async def settled_or_held(database: Database, made: Sequence[Job]) -> bool:
    told = [await read(database, job) for job in made]
    return all(job.status is JobStatus.COMPLETED or job.held_reason for job in told)


async def test_a_cap_that_is_reached_holds_jobs_says_so_and_is_not_overrun(database: Database) -> None:
    scope = await new_scope(database)
    made = [(await session_of(database, 1, session=f"s{n}", scope=scope))[0] for n in range(6)]
    provider = PaidProvider()
    caps = DefaultCaps(daily_tokens=2_000)
    principal = Principal(scope.team_id, None, None, frozenset())
    async with rig(database, provider, project_caps=caps) as it:
        await it.outbox.publish(made)
        await it.work(lambda: most_are_held(database, made, 4))
        held = [job for job in [await read(database, each) for each in made] if job.held_reason]
        assert {job.held_reason for job in held} == {"the project's daily cap of 2,000 tokens is reached"}
        assert {(job.status, job.attempts) for job in held} == {(JobStatus.QUEUED, 0)}
        assert len(provider.asked) == 2
        told = Spending(database, project_caps=caps, team_caps=DefaultCaps(), prices={}, now_ms=now_ms)
        (state,) = (await told.report(principal, scope.project_id)).caps
        assert (state.spent, state.cap.amount) == (2_000, 2_000)
        await told.set_cap(principal, Cap(scope.project_id, Period.DAY, "tokens", 1_000_000))
        assert await it.jobs.resume(principal) == 4
        await it.work(lambda: all_settled(database, made))
    assert len(provider.asked) == 6


@pytest.mark.parametrize("prices, cost", [({}, None), ({"m": Price(0, 0, 0)}, 0)])
async def test_what_a_model_of_no_known_price_cost_is_not_called_nothing(
    database: Database, prices: dict[str, Price], cost: int | None
) -> None:
    scope = await new_scope(database)
    (job,) = await session_of(database, 1, scope=scope)
    spent = JobSpent(job, "x", [ModelSpent("paid", "m-large", COST, cost_microusd=0)])
    await database.tx(lambda conn: spending.add_usage(conn, [spent], wall_ms=now_ms()))
    told = Spending(database, project_caps=DefaultCaps(), team_caps=DefaultCaps(), prices=prices, now_ms=now_ms)
    report = await told.report(Principal(scope.team_id, None, None, frozenset()), None)
    assert [report.cost_of(day) for day in report.days] == [cost]


async def most_are_held(database: Database, made: Sequence[Job], count: int) -> bool:
    return sum([await is_held(database, job) for job in made]) == count


async def test_a_teams_cap_counts_all_its_projects_and_no_other_teams(database: Database) -> None:
    scope, foreign = await new_scope(database), await new_scope(database)
    mine, theirs = [(await session_of(database, 1, scope=each))[0] for each in (scope, foreign)]

    def spend(conn: Connection) -> None:
        spending.set_cap(conn, scope.team_id, Cap(None, Period.MONTH, "microusd", 2_500_000))
        for job in (mine, theirs):
            spent = JobSpent(job, "x", [ModelSpent("paid", "m", COST, cost_microusd=2_500_000)])
            spending.add_usage(conn, [spent], wall_ms=now_ms())

    await database.tx(spend)
    async with rig(database, PaidProvider()) as it:
        await it.outbox.publish([mine])
        await it.finish(theirs)
        await it.work(lambda: is_held(database, mine))
    assert (await read(database, mine)).held_reason == "the team's monthly cap of $2.50 is reached"


async def test_an_outage_holds_jobs_without_an_attempt_and_its_end_lets_them_go_on_at_once(database: Database) -> None:
    made = await session_of(database, 3)
    is_out = True

    async def answer(request: GenerationRequest) -> GenerationAnswer:
        if is_out:
            raise Exhausted("no quota", retry_after_s=3_600)
        return one_note_an_event(request)

    provider = PaidProvider(answer)
    async with rig(database, provider) as it:
        await it.outbox.publish(made)
        await it.work(lambda: is_held(database, made[0]))
        head, *others = [await read(database, job) for job in made]
        assert (head.held_reason, head.attempts, head.outages) == ("Exhausted: no quota", 0, 1)
        assert [(job.held_reason, job.attempts) for job in others] == [(None, 0)] * 2
        assert await database.read(jobs.held_by_reason) == [("Exhausted: no quota", 1)]
        is_out = False
        provider.back.set()
        await it.work(lambda: all_settled(database, made), timeout_s=5)
    assert provider.asked_about[-1] == [job.source_id for job in made]


async def test_an_operator_resumes_what_an_outage_holds(database: Database) -> None:
    (job,) = await session_of(database, 1)
    outages = 0

    async def out_once(request: GenerationRequest) -> GenerationAnswer:
        nonlocal outages
        outages += 1
        if outages == 1:
            raise Busy("limit", retry_after_s=3_600)
        return one_note_an_event(request)

    principal = Principal(job.team_id, None, None, frozenset())
    async with rig(database, PaidProvider(out_once)) as it:
        await it.outbox.publish([job])
        await it.work(lambda: is_held(database, job))
        assert await it.jobs.resume(Principal("another", None, None, frozenset())) == 0
        assert await it.jobs.resume(principal) == 1
        assert await it.jobs.resume(principal) == 0
        await it.work(lambda: all_settled(database, [job]), timeout_s=5)
    assert await history(database, job) == ["queued", "taken", "held", "resumed", "taken", "completed"]


@pytest.mark.parametrize("own", [GenerationPolicy.PER_EVENT, GenerationPolicy.BATCH])
async def test_a_projects_policy_decides_for_it(database: Database, own: GenerationPolicy) -> None:
    one, other = await new_scope(database), await new_scope(database)
    await database.tx(lambda conn: accounts.set_policy(conn, one, own))
    jobs_of_both = [await session_of(database, 3, scope=scope) for scope in (one, other)]
    provider = PaidProvider()
    of_all = GenerationPolicy.BATCH if own is GenerationPolicy.PER_EVENT else GenerationPolicy.PER_EVENT
    async with rig(database, provider, policy=of_all) as it:
        await it.finish(*itertools.chain(*jobs_of_both))
    assert sorted(len(events) for events in provider.asked_about) == [1, 1, 1, 3]


async def test_end_of_turn_waits_for_the_turns_end_and_its_summary_comes_after_it(database: Database) -> None:
    scope = await new_scope(database)
    received = now_ms()
    events = [new_event(scope, "s", received_at=received) for _ in range(3)]
    end = new_event(scope, "s", event_type="turn_end", received_at=received)
    made = await store(database, *events)
    provider = PaidProvider()
    async with rig(database, provider, policy=GenerationPolicy.END_OF_TURN) as it:
        await it.outbox.publish(made)
        await it.work(lambda: nothing_waits(it))
        assert provider.asked == []
        made += await store(database, end)
        await it.finish(*made)
    assert [request.kind for request in provider.asked] == [JobKind.EVENT, JobKind.SUMMARY]
    assert provider.asked_about[0] == [job.source_id for job in made[:3]]
    assert [note.title for note in provider.asked[1].recent] == [f"note of {job.source_id}" for job in made[:3]]


async def nothing_waits(it: Rig) -> bool:
    return (await it.worker.queue.depth()).pending == 0


async def test_a_turns_end_is_not_kept_waiting_by_the_debounce(database: Database) -> None:
    scope = await new_scope(database)
    made = await store(database, new_event(scope, "s", received_at=now_ms()))
    provider = PaidProvider()
    async with rig(database, provider, debounce_ms=40_000) as it:
        await it.outbox.publish(made)
        await it.work(lambda: is_delayed(it))
        assert provider.asked == []
        made += await store(database, new_event(scope, "s", event_type="turn_end", received_at=now_ms()))
        await it.finish(*made)
    assert len(provider.asked) == 2


async def is_delayed(it: Rig) -> bool:
    return (await it.worker.queue.depth()).sessions.delayed == 1


async def test_a_batch_of_no_session_that_is_larger_than_a_call_is_asked_about_in_parts(database: Database) -> None:
    scope = await new_scope(database)
    made = await store(database, *(new_event(scope, None, batch="b") for _ in range(5)))
    provider = PaidProvider(longest_run=2)
    async with rig(database, provider) as it:
        await it.finish(made[0])
    assert [len(events) for events in provider.asked_about] == [2, 2, 1]
    found = await database.read(lambda conn: observations.observations_of_job(conn, scope, made[0].id))
    assert len(found) == 5
    assert (await read(database, made[0])).calls == 3


async def batch_of(database: Database, count: int, scope: Scope | None = None) -> Job:
    """The one job of so many events that belong to no session."""
    of = scope or await new_scope(database)
    return (await store(database, *(new_event(of, None, batch="b") for _ in range(count))))[0]


async def test_a_cap_that_is_reached_between_two_calls_of_a_job_stops_it_and_what_was_paid_is_not_paid_again(
    database: Database,
) -> None:
    job = await batch_of(database, 10)
    provider = PaidProvider(longest_run=2)
    principal = Principal(job.team_id, None, None, frozenset())
    async with rig(database, provider, project_caps=DefaultCaps(daily_tokens=3_000)) as it:
        await it.outbox.publish([job])
        await it.work(lambda: is_held(database, job))
        assert [len(events) for events in provider.asked_about] == [2, 2, 2]
        held = await read(database, job)
        assert (held.held_reason, held.attempts, held.calls) == (
            "the project's daily cap of 3,000 tokens is reached",
            0,
            3,
        )

        higher = Cap(job.project_id, Period.DAY, "tokens", 1_000_000)
        await database.tx(lambda conn: spending.set_cap(conn, job.team_id, higher))
        await it.jobs.resume(principal)
        await it.work(lambda: all_settled(database, [job]))
    about = [event for events in provider.asked_about for event in events]
    assert len(about) == len(set(about)) == 10
    found = await database.read(lambda conn: observations.observations_of_job(conn, job.scope, job.id))
    assert sorted(note.title for note in found) == sorted(f"note of {event}" for event in about)
    told = await read(database, job)
    assert (told.status, told.calls, told.cost_microusd) == (JobStatus.COMPLETED, 5, 5 * COST_MICROUSD)


async def test_a_cap_stops_a_run_whose_answers_are_cut_again_and_again(database: Database) -> None:
    made = await session_of(database, 8)

    async def cut(_request: GenerationRequest) -> GenerationAnswer:
        raise paid(TooLong("the answer was cut"))

    provider = PaidProvider(cut)
    async with rig(database, provider, team_caps=DefaultCaps(daily_tokens=2_000)) as it:
        await it.outbox.publish(made)
        await it.work(lambda: is_held(database, made[0]))
    assert [len(events) for events in provider.asked_about] == [8, 4]
    told = [await read(database, job) for job in made]
    assert {(job.status, job.attempts, job.failures) for job in told} == {(JobStatus.QUEUED, 0, 0)}
    assert sum(job.calls for job in told) == 2


@pytest.mark.parametrize(
    "error", [Busy("no answer", retry_after_s=0.01), Unreadable("prose")], ids=["outage", "failure"]
)
async def test_a_job_of_several_calls_goes_on_where_one_of_them_failed(
    database: Database, error: ProviderError
) -> None:
    job = await batch_of(database, 6)

    async def fail_second(request: GenerationRequest) -> GenerationAnswer:
        if len(provider.asked) == 2:
            raise error
        return one_note_an_event(request)

    provider = PaidProvider(fail_second, longest_run=2)
    async with rig(database, provider) as it:
        await it.finish(job)
    first, failed, again, last = provider.asked_about
    assert failed == again
    assert len({*first, *again, *last}) == 6
    assert (await read(database, job)).calls == 3


async def test_what_was_left_of_a_job_is_asked_about_anew_where_one_of_its_events_is_gone(database: Database) -> None:
    job = await batch_of(database, 6)

    async def fail_second(request: GenerationRequest) -> GenerationAnswer:
        if len(provider.asked) == 2:
            gone = provider.asked[0].events[0].id
            await database.tx(lambda conn: conn.execute(delete(agent_events).where(agent_events.c.id == gone)))
            raise Busy("no answer", retry_after_s=0.01)
        return one_note_an_event(request)

    provider = PaidProvider(fail_second, longest_run=2)
    async with rig(database, provider) as it:
        await it.finish(job)
    gone = provider.asked[0].events[0].id
    assert [len(events) for events in provider.asked_about] == [2, 2, 2, 2, 1]
    found = await database.read(lambda conn: observations.observations_of_job(conn, job.scope, job.id))
    assert len(found) == 5
    assert f"note of {gone}" not in {note.title for note in found}


async def test_a_model_that_does_not_answer_about_all_is_asked_about_fewer_at_once(database: Database) -> None:
    job = await batch_of(database, 12)

    async def cut(request: GenerationRequest) -> GenerationAnswer:
        whole = one_note_an_event(request)
        return replace(whole, drafts=whole.drafts[:2], answered=2) if len(request.events) > 2 else whole

    provider = PaidProvider(cut, longest_run=8)
    async with rig(database, provider) as it:
        await it.finish(job)
    assert [len(events) for events in provider.asked_about] == [8, 2, 2, 2, 2, 2]


async def test_a_modes_own_type_is_stored_shown_and_found(database: Database) -> None:
    (job,) = await session_of(database, 1)

    async def say(_request: GenerationRequest) -> GenerationAnswer:
        own = Draft(ObservationKind.DISCOVERY, "Frost in May", concepts=("seen",), own_type="seen")
        return GenerationAnswer((own, Draft(ObservationKind.DECISION, "Frost cloth is bought")))

    async with rig(database, PaidProvider(say)) as it:
        await it.finish(job)
    notes = {note.title: note for note, _ in await notes_of(database, job)}
    own, other = notes["Frost in May"], notes["Frost cloth is bought"]
    assert (own.kind, own.type_shown, other.type_shown) == (ObservationKind.DISCOVERY, "seen", "decision")
    assert ObservationView.of(own).metadata["type"] == "seen"
    assert "type" not in ObservationView.of(other).metadata
    assert "  seen  Frost in May" in note_line(own)
    wanted = SearchFilter(concepts=frozenset({"seen"}))
    hits = await database.read(lambda conn: search(conn, job.scope, "frost", wanted, limit=9))
    assert [hit for hit, _ in hits] == [own.id]
