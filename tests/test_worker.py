"""The worker and the outbox by the rules of the protocol, on real queues and databases."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import delete, func, select

from observed import end_lease, new_event, new_scope, session_with_jobs, store, terms_of
from onlooker.domain.errors import Busy, Rejected, StorageUnavailable, Unreadable
from onlooker.domain.jobs import JobKind, JobStatus
from onlooker.domain.models import Draft, Job, ObservationKind, Scope
from onlooker.host import ProcessIdentity, new_id, now_ms
from onlooker.providers.contract import CallsNobody, GenerationAnswer, GenerationRequest
from onlooker.queue.contract import Lane
from onlooker.queue.sql import SqlQueue
from onlooker.services.generate import Generate
from onlooker.services.outbox import Outbox
from onlooker.storage import jobs, taking
from onlooker.storage.database import Connection, Database
from onlooker.storage.tables import messages, observation_sources, observations
from onlooker.storage.taking import Wanted
from onlooker.worker import Worker
from waiting import wait_until

Answer = Callable[[GenerationRequest], Awaitable[GenerationAnswer]]


def one_note_an_event(request: GenerationRequest) -> GenerationAnswer:
    drafts = [
        Draft(ObservationKind.CHANGE, f"note of {event.id}", sources=(n,)) for n, event in enumerate(request.events)
    ]
    return GenerationAnswer(tuple(drafts))


@dataclass
class TestProvider(CallsNobody):
    """Answers as the test says; remembers what it was asked."""

    __test__ = False

    answer: Answer | None = None
    longest_run: int = 1
    name: str = "test"
    prompt_version: str = "test-1"
    asked: list[GenerationRequest] = field(default_factory=list)

    async def generate(self, request: GenerationRequest) -> GenerationAnswer:
        self.asked.append(request)
        return one_note_an_event(request) if self.answer is None else await self.answer(request)


@dataclass
class Rig:
    """A worker with its parts; `work` runs it until the condition holds."""

    database: Database
    queue: SqlQueue
    outbox: Outbox
    worker: Worker
    provider: TestProvider

    async def work(self, until: Callable[[], Awaitable[bool]], timeout_s: float = 15) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(self.worker.run(stop))
        try:
            await wait_until(until, timeout_s=timeout_s)
        finally:
            stop.set()
            await running

    async def finish(self, *made: Job) -> None:
        await self.work(lambda: all_settled(self.database, made))


@asynccontextmanager
async def rig(
    database: Database, provider: TestProvider, *, lease_ms: int = 60_000, **given: float
) -> AsyncIterator[Rig]:
    identity = ProcessIdentity.of_this_process()
    queue = SqlQueue(database, identity=identity)
    outbox = Outbox(database, queue)
    terms = terms_of(worker=str(identity), lease_ms=lease_ms, longest_run=provider.longest_run)
    generate = Generate(database, provider, terms=terms, new_id=new_id, now_ms=now_ms)
    worker = Worker(
        database, queue, generate, outbox, str(identity), new_id(), concurrency=4,
        renewal_s=given.get("renewal_s", 20), drain_s=given.get("drain_s", 5),
    )  # fmt: skip
    try:
        yield Rig(database, queue, outbox, worker, provider)
    finally:
        await queue.close()


async def read(database: Database, job: Job) -> Job:
    return await database.read(lambda conn: jobs.get(conn, Scope(job.team_id, job.project_id), job.id))


async def all_settled(database: Database, made: Sequence[Job]) -> bool:
    found = await database.read(lambda conn: jobs.statuses(conn, [job.id for job in made]))
    return all(status not in {JobStatus.QUEUED, JobStatus.PROCESSING} for status in found.values())


async def status_is(database: Database, job: Job, status: JobStatus) -> bool:
    return (await read(database, job)).status is status


async def notes(database: Database) -> list[str]:
    """The events that have an observation, in the order these were stored."""
    table = observation_sources
    wanted = select(table.c.source_id).join(observations, observations.c.id == table.c.observation_id)
    return list(await database.read(lambda conn: conn.execute(wanted.order_by(observations.c.id)).scalars().all()))


async def test_every_event_gets_its_observation_once_and_in_its_sessions_order(database: Database) -> None:
    async with rig(database, TestProvider()) as it:
        made = [await session_with_jobs(database, 5) for _ in range(4)]
        for of_session in made:
            await it.outbox.publish(of_session)
        await it.finish(*[job for of_session in made for job in of_session])
    stored = await notes(database)
    assert len(stored) == len(set(stored)) == 20
    for of_session in made:
        sources = [job.source_id for job in of_session]
        assert [source for source in stored if source in set(sources)] == sources


async def test_a_sessions_next_message_that_came_with_the_confirm_is_not_rung_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await session_with_jobs(database, 5)
    looked = []
    async with rig(database, TestProvider()) as it:
        look = it.worker.generate.runs.next_head

        async def counted(session_id: str | None, job_id: str) -> Job | None:
            looked.append(job_id)
            return await look(session_id, job_id)

        monkeypatch.setattr(it.worker.generate.runs, "next_head", counted)
        it.worker.concurrency = 1
        await it.outbox.publish(made)
        await it.finish(*made)
    assert looked == [made[-1].id]


async def test_what_was_claimed_with_a_confirm_is_served_though_the_head_cannot_be_looked_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [(await session_with_jobs(database, 1))[0] for _ in range(12)]

    async def fail(_session_id: str | None, _job_id: str) -> Job | None:
        raise StorageUnavailable("gone for a moment")

    async with rig(database, TestProvider()) as it:
        monkeypatch.setattr(it.worker.generate.runs, "next_head", fail)
        await it.outbox.publish(made)
        await it.finish(*made)
        assert await it.outbox._lost_messages(), "the outbox rings what was not looked for"
    assert len(await notes(database)) == 12


async def test_what_was_never_published_is_rung_by_reconcile(database: Database) -> None:
    made = await session_with_jobs(database, 3)
    async with rig(database, TestProvider()) as it:
        assert await it.outbox.reconcile() == 1
        await it.finish(*made)
        assert await it.queue.pending(Lane.session(made[0].session_id or "")) == 0
    assert await notes(database) == [job.source_id for job in made]


async def test_a_queue_that_lost_everything_is_refilled(database: Database) -> None:
    made = await session_with_jobs(database, 3)
    async with rig(database, TestProvider()) as it:
        await it.outbox.publish(made)
        await database.tx(lambda conn: conn.execute(delete(messages)))
        await it.outbox.reconcile()
        await it.finish(*made)
    assert await notes(database) == [job.source_id for job in made]


async def test_a_sessions_waiting_events_go_into_one_call(database: Database) -> None:
    made = await session_with_jobs(database, 6)
    provider = TestProvider(longest_run=50)
    async with rig(database, provider) as it:
        await it.outbox.publish(made)
        await it.finish(*made)
    assert len(provider.asked) == 1
    assert await notes(database) == [job.source_id for job in made]


async def test_a_turns_summary_comes_after_its_events_and_each_turn_has_one(database: Database) -> None:
    scope = await new_scope(database)
    made = await store(
        database,
        *(new_event(scope, "s", event_type=kind) for kind in ("tool_use", "turn_end", "tool_use", "turn_end")),
    )
    provider = TestProvider()
    async with rig(database, provider) as it:
        await it.outbox.publish(made)
        await it.finish(*made)
    assert [request.kind for request in provider.asked] == [
        JobKind.EVENT, JobKind.SUMMARY, JobKind.EVENT, JobKind.SUMMARY,
    ]  # fmt: skip
    second_turn = provider.asked[3].events
    assert [event.event_type for event in second_turn] == ["tool_use", "turn_end"]
    assert second_turn[0].id == made[2].source_id


async def test_losing_the_jobs_lease_cancels_the_call_and_writes_nothing(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    cancelled = asyncio.Event()

    async def never(_request: GenerationRequest) -> GenerationAnswer:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    provider = TestProvider(never)
    async with rig(database, provider, renewal_s=0.05) as it:
        await it.outbox.publish([job])

        async def lose() -> bool:
            if provider.asked:
                await database.tx(
                    lambda conn: jobs.cancel(conn, Scope(job.team_id, job.project_id), job.id, reason="x")
                )
            return cancelled.is_set()

        await it.work(lose)
    assert (await read(database, job)).status is JobStatus.CANCELLED
    assert await notes(database) == []


async def test_losing_the_queues_claim_does_not_cancel_the_call(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)

    async def slow(request: GenerationRequest) -> GenerationAnswer:
        await database.tx(lambda conn: conn.execute(delete(messages)))
        await asyncio.sleep(0.3)
        return one_note_an_event(request)

    provider = TestProvider(slow)
    async with rig(database, provider, renewal_s=0.05) as it:
        await it.outbox.publish([job])
        await it.finish(job)
    assert (await read(database, job)).status is JobStatus.COMPLETED
    assert len(provider.asked) == 1


async def test_a_commit_whose_reply_was_lost_completes_the_job_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = await session_with_jobs(database, 1)
    provider = TestProvider()
    lost = 0
    whole = database.tx

    async def lose_one_reply(
        work: Callable[[Connection], object], *, durable: bool = True, urgent: bool = False
    ) -> object:
        nonlocal lost
        answer = await whole(work, durable=durable, urgent=urgent)
        if durable and provider.asked and await status_is(database, job, JobStatus.COMPLETED) and not lost:
            lost += 1
            raise StorageUnavailable("the connection was lost at commit", outcome_unknown=True)
        return answer

    async with rig(database, provider) as it:
        await it.outbox.publish([job])
        monkeypatch.setattr(type(database), "tx", lambda _self, work, **given: lose_one_reply(work, **given))
        await it.finish(job)
        monkeypatch.undo()
        await it.work(lambda: nothing_pending(it.queue))
    assert lost == 1
    assert len(provider.asked) == 1
    assert await notes(database) == [job.source_id]


async def nothing_pending(queue: SqlQueue) -> bool:
    return (await queue.depth()).pending == 0


async def test_a_failing_job_holds_its_session_until_it_is_dead_lettered(database: Database) -> None:
    poison, healthy = await session_with_jobs(database, 2, max_attempts=2)

    async def refuse_one(request: GenerationRequest) -> GenerationAnswer:
        if request.events[0].id == poison.source_id:
            raise Unreadable("prose")
        return one_note_an_event(request)

    provider = TestProvider(refuse_one)
    async with rig(database, provider) as it:
        await it.outbox.publish([poison, healthy])
        await it.finish(poison, healthy)
    assert [request.events[0].id for request in provider.asked] == [poison.source_id] * 2 + [healthy.source_id]
    dead = await read(database, poison)
    assert (dead.status, dead.last_error) == (JobStatus.FAILED, "Unreadable: prose")


async def test_content_that_the_provider_refuses_is_dead_lettered_at_once(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)

    async def refuse(_request: GenerationRequest) -> GenerationAnswer:
        raise Rejected("policy")

    provider = TestProvider(refuse)
    async with rig(database, provider) as it:
        await it.outbox.publish([job])
        await it.finish(job)
    assert len(provider.asked) == 1


async def test_a_long_wait_is_kept_by_the_row_and_ended_by_an_operators_retry(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    away = True

    async def answer(request: GenerationRequest) -> GenerationAnswer:
        if away:
            raise Busy("overloaded", retry_after_s=3_600)
        return one_note_an_event(request)

    async with rig(database, TestProvider(answer)) as it:
        await it.outbox.publish([job])
        await it.work(lambda: held_and_unqueued(it, job))
        parked = await read(database, job)
        assert (parked.status, parked.attempts, parked.outages) == (JobStatus.QUEUED, 0, 1)
        assert await it.outbox.reconcile() == 0
        away = False
        again, _ = await database.tx(lambda conn: jobs.retry(conn, Scope(job.team_id, job.project_id), job.id))
        await it.outbox.publish([again])
        await it.finish(job)
    assert await notes(database) == [job.source_id]


async def held_and_unqueued(it: Rig, job: Job) -> bool:
    return (await read(it.database, job)).held_reason is not None and await nothing_pending(it.queue)


async def test_a_stopping_worker_gives_its_job_back_untouched(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)

    async def never(_request: GenerationRequest) -> GenerationAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    provider = TestProvider(never)
    async with rig(database, provider, drain_s=0.1) as it:
        await it.outbox.publish([job])
        await it.work(lambda: status_is(database, job, JobStatus.PROCESSING))
        back = await read(database, job)
        assert (back.status, back.attempts, back.lease_token) == (JobStatus.QUEUED, 0, None)
        assert (await it.queue.depth()).sessions.waiting == 1


async def test_a_defect_in_a_provider_fails_the_job_and_not_the_worker(database: Database) -> None:
    broken, healthy = await session_with_jobs(database, 2, max_attempts=1)

    async def trip(request: GenerationRequest) -> GenerationAnswer:
        if request.events[0].id == broken.source_id:
            raise KeyError("content of an event")
        return one_note_an_event(request)

    async with rig(database, TestProvider(trip)) as it:
        await it.outbox.publish([broken, healthy])
        await it.finish(broken, healthy)
    dead = await read(database, broken)
    assert (dead.status, dead.last_error) == (JobStatus.FAILED, "Defect: KeyError")
    assert (await read(database, healthy)).status is JobStatus.COMPLETED


async def test_a_worker_that_was_stopped_past_its_lease_writes_nothing(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    provider = TestProvider()

    async def overtaken(request: GenerationRequest) -> GenerationAnswer:
        if len(provider.asked) == 1:
            await end_lease(database, job)
            other = await database.tx(
                lambda conn: taking.take(conn, Wanted(job.session_id, job.id, "other"), terms_of(), wall_ms=now_ms())
            )
            assert isinstance(other, jobs.Taken)
        return one_note_an_event(request)

    provider.answer = overtaken
    async with rig(database, provider) as it:
        await it.outbox.publish([job])
        await it.work(lambda: was_asked(provider))
        held = await read(database, job)
        assert (held.lease_token, held.status) == ("other", JobStatus.PROCESSING)
        assert await notes(database) == []
        await end_lease(database, job)
        await it.outbox.reconcile()
        await it.finish(job)
    assert await notes(database) == [job.source_id]


async def was_asked(provider: TestProvider) -> bool:
    return bool(provider.asked)


async def test_completion_and_observations_are_one_transaction(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1, max_attempts=1)

    async def unstorable(_request: GenerationRequest) -> GenerationAnswer:
        good = Draft(ObservationKind.CHANGE, "good")
        bad = Draft("no such kind", "bad")  # type: ignore[arg-type]  # the database refuses it, as it should
        return GenerationAnswer((good, bad))

    async with rig(database, TestProvider(unstorable)) as it:
        await it.outbox.publish([job])
        await it.finish(job)
    assert (await read(database, job)).status is JobStatus.FAILED
    count = await database.read(lambda conn: conn.execute(select(func.count()).select_from(observations)).scalar_one())
    assert count == 0


async def test_what_an_answer_repeats_of_a_secret_is_not_stored(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    secret = "ghp_" + "a1B2" * 9

    async def repeat(_request: GenerationRequest) -> GenerationAnswer:
        return GenerationAnswer((Draft(ObservationKind.CHANGE, f"uses {secret}", facts=(f"token {secret}", "a\x00b")),))

    async with rig(database, TestProvider(repeat)) as it:
        await it.outbox.publish([job])
        await it.finish(job)
    assert (await read(database, job)).status is JobStatus.COMPLETED
    content = await database.read(lambda conn: conn.execute(select(observations.c.content)).scalar_one())
    assert content == "uses [redacted:github-token]\n\n- token [redacted:github-token]\n- a\ufffdb"
