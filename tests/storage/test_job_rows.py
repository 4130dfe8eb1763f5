"""The jobs' rows by the rules of the protocol, on both databases."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

import pytest
from sqlalchemy import select

from observed import end_lease, new_event, new_scope, session_with_jobs, store, terms_of
from onlooker.domain.errors import ClaimLost, IllegalTransition, NotFound
from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import Job, Scope
from onlooker.storage import heads, jobs, taking
from onlooker.storage.database import Connection, Database
from onlooker.storage.jobs import NOTHING, Later, Made, Taken
from onlooker.storage.tables import api_keys, observation_generation_job_events
from onlooker.storage.taking import Wanted


def scope_of(job: Job) -> Scope:
    return Scope(job.team_id, job.project_id)


NOW = 1_790_000_000_000


async def take(
    database: Database, job: Job, *, token: str = "t", longest_run: int = 1, worker: str = "w"
) -> Taken | Later | Literal["nothing"]:
    terms = terms_of(worker=worker, longest_run=longest_run)
    wanted = Wanted(job.session_id, job.id, token)
    return await database.tx(lambda conn: taking.take(conn, wanted, terms, wall_ms=NOW))


async def taken(database: Database, job: Job, *, token: str = "t", longest_run: int = 1) -> Taken:
    got = await take(database, job, token=token, longest_run=longest_run)
    assert isinstance(got, Taken)
    return got


async def complete(database: Database, run: Taken) -> None:
    def work(conn: Connection) -> None:
        jobs.lock(conn, run.head)
        jobs.complete(conn, run, Made("rules", None, "1"))

    await database.tx(work)


async def fail(database: Database, run: Taken, *, error: str) -> JobStatus:
    return await database.tx(lambda conn: jobs.fail(conn, run, error=error, delay_ms=0, final=False))


async def ring(database: Database, place: heads.Place) -> tuple[list[Job], heads.Place]:
    return await database.tx(lambda conn: heads.ring_page(conn, place))


async def apply(database: Database, act: Callable[[Connection, Scope, str], object], scope: Scope, job: Job) -> None:
    await database.tx(lambda conn: act(conn, scope, job.id))


def cancel(conn: Connection, scope: Scope, job_id: str) -> object:
    return jobs.cancel(conn, scope, job_id, reason="test")


async def read(database: Database, job: Job) -> Job:
    return await database.read(lambda conn: jobs.get(conn, scope_of(job), job.id))


async def test_a_message_takes_its_sessions_head_whichever_job_it_names(database: Database) -> None:
    first, second, third = await session_with_jobs(database, 3)
    run = await taken(database, third)
    assert run.ids == [first.id]
    assert run.head.attempts == 1
    assert run.head.status is JobStatus.PROCESSING
    await complete(database, run)
    assert (await taken(database, third)).ids == [second.id]


async def test_of_many_workers_that_start_one_job_exactly_one_gets_it(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    results = await asyncio.gather(*(take(database, job, token=f"t{n}", worker=f"w{n}") for n in range(32)))
    assert sum(isinstance(result, Taken) for result in results) == 1
    assert all(isinstance(result, (Taken, Later)) for result in results)


async def test_of_many_lanes_at_once_each_gets_its_own_head_and_is_ended_by_its_own_token(database: Database) -> None:
    first, second = await session_with_jobs(database, 2)
    (other,) = await session_with_jobs(database, 1)
    (alone,) = await store(database, new_event(await new_scope(database), None))
    (busy,) = await session_with_jobs(database, 1)
    await taken(database, busy, token="busy")
    done = await session_with_jobs(database, 1)
    await complete(database, await taken(database, done[0], token="done"))
    wanted = [
        Wanted(job.session_id, job.id, f"of {number}")
        for number, job in enumerate((second, other, alone, busy, done[0]))
    ]
    of_first, of_other, of_alone, of_busy, of_done = await database.tx(
        lambda conn: taking.take_locked(conn, wanted, terms_of(), wall_ms=NOW)
    )
    assert isinstance(of_first, Taken)
    assert isinstance(of_other, Taken)
    assert isinstance(of_alone, Taken)
    assert [run.ids for run in (of_first, of_other, of_alone)] == [[first.id], [other.id], [alone.id]]
    assert [run.head for run in (of_first, of_other, of_alone)] == [
        await read(database, job) for job in (first, other, alone)
    ]
    assert isinstance(of_busy, Later)
    assert of_done == NOTHING
    # What was taken away is left as it is, and the others are completed all the same.
    await end_lease(database, other)
    again = await taken(database, other, token="again")
    made = Made("rules", None, "1")
    ours = await database.tx(
        lambda conn: jobs.complete_each(conn, [(of_first, made), (of_other, made), (of_alone, made)])
    )
    assert ours == {of_first.token, of_alone.token}
    assert (await read(database, other)).lease_token == again.token
    assert await database.tx(lambda conn: jobs.complete_each(conn, [])) == set()
    lanes = [(job.session_id, job.id) for job in (first, other, alone, busy)]
    assert await database.read(lambda conn: jobs.next_heads(conn, lanes)) == [second, None, None, None]


async def test_while_a_worker_has_the_session_others_wait_five_seconds_at_most(database: Database) -> None:
    first, second = await session_with_jobs(database, 2)
    await taken(database, first)
    other = await take(database, second, token="u")
    assert isinstance(other, Later)
    assert 0 < other.delay_ms <= taking.BUSY_SESSION_MS


async def test_a_retried_older_job_waits_for_the_younger_one_that_is_processing(database: Database) -> None:
    older, younger = await session_with_jobs(database, 2)
    await database.tx(lambda conn: jobs.cancel(conn, scope_of(older), older.id, reason="test"))
    run = await taken(database, younger)
    await database.tx(lambda conn: jobs.retry(conn, scope_of(older), older.id))
    assert isinstance(await take(database, older, token="u"), Later)
    await end_lease(database, younger)
    assert (await taken(database, older, token="u")).ids == [older.id]
    assert (await read(database, younger)).status is JobStatus.QUEUED
    with pytest.raises(ClaimLost):
        await complete(database, run)


async def test_a_lease_that_is_over_is_taken_over_and_the_late_writer_is_refused(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    late = await taken(database, job, token="late")
    await end_lease(database, job)
    new = await taken(database, job, token="new")
    assert new.head.attempts == 2
    with pytest.raises(ClaimLost):
        await complete(database, late)
    with pytest.raises(ClaimLost):
        await database.tx(lambda conn: jobs.extend(conn, late, lease_ms=60_000))
    await complete(database, new)
    assert (await read(database, job)).status is JobStatus.COMPLETED


async def test_a_job_whose_worker_died_with_its_last_attempt_is_dead_lettered_and_the_next_is_taken(
    database: Database,
) -> None:
    poison, next_job = await session_with_jobs(database, 2, max_attempts=2)
    for _ in range(2):
        await taken(database, poison)
        await end_lease(database, poison)
    assert (await taken(database, poison)).ids == [next_job.id]
    dead = await read(database, poison)
    assert (dead.status, dead.last_error, dead.lease_token) == (JobStatus.FAILED, jobs.LEASE_EXPIRED, None)


async def test_a_run_is_contiguous_due_untried_and_of_one_key(database: Database) -> None:
    scope = await new_scope(database)
    made = await store(
        database,
        new_event(scope, "s"),
        new_event(scope, "s"),
        new_event(scope, "s", event_type="turn_end"),
        new_event(scope, "s"),
        new_event(scope, "s", api_key_id="another"),
    )
    run = await taken(database, made[0], longest_run=10)
    assert run.ids == [made[0].id, made[1].id]
    await complete(database, run)
    summary = await taken(database, made[0], longest_run=10)
    assert summary.ids == [made[2].id]
    await complete(database, summary)
    assert (await taken(database, made[0], longest_run=10)).ids == [made[3].id]


async def test_a_run_completes_whole_or_not_at_all(database: Database) -> None:
    made = await session_with_jobs(database, 3)
    run = await taken(database, made[0], longest_run=3)
    assert len(run.jobs) == 3
    await database.tx(lambda conn: jobs.cancel(conn, scope_of(made[1]), made[1].id, reason="test"))
    with pytest.raises(ClaimLost):
        await complete(database, run)
    statuses = [(await read(database, job)).status for job in made]
    assert statuses == [JobStatus.PROCESSING, JobStatus.CANCELLED, JobStatus.PROCESSING]


async def test_after_a_failed_run_its_head_waits_and_is_tried_alone(database: Database) -> None:
    made = await session_with_jobs(database, 3)
    run = await taken(database, made[0], longest_run=3)
    await database.tx(lambda conn: jobs.fail(conn, run, error="x", delay_ms=30_000, final=False))
    assert [(await read(database, job)).attempts for job in made] == [1, 0, 0]
    waiting = await take(database, made[1], longest_run=3)
    assert isinstance(waiting, Later)
    assert 5_000 < waiting.delay_ms <= 30_000
    await database.tx(lambda conn: jobs.retry(conn, scope_of(made[0]), made[0].id))
    assert (await taken(database, made[1], longest_run=3)).ids == [made[0].id]


async def test_attempts_end_in_the_dead_letter_with_the_reason(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1, max_attempts=2)
    for attempt in (1, 2):
        run = await taken(database, job)
        status = await fail(database, run, error="bad answer")
        assert status is (JobStatus.QUEUED if attempt == 1 else JobStatus.FAILED)
    dead = await read(database, job)
    assert (dead.last_error, dead.failures, dead.failed_at is not None) == ("bad answer", 2, True)
    assert await take(database, job) == NOTHING


async def test_an_outage_spends_no_attempt_and_names_its_reason(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    run = await taken(database, job)
    await database.tx(lambda conn: jobs.hold(conn, run, reason="Busy: 529", delay_ms=60_000))
    held = await read(database, job)
    assert (held.status, held.attempts, held.outages, held.held_reason) == (JobStatus.QUEUED, 0, 1, "Busy: 529")


async def test_a_drained_run_goes_back_with_its_attempt(database: Database) -> None:
    made = await session_with_jobs(database, 2)
    run = await taken(database, made[0], longest_run=2)
    await database.tx(lambda conn: jobs.give_back(conn, run, reason="stop"))
    assert [(await read(database, job)).attempts for job in made] == [0, 0]
    assert (await taken(database, made[0], longest_run=2)).ids == [job.id for job in made]


async def test_giving_back_what_was_taken_away_changes_nothing_and_is_not_in_the_history(database: Database) -> None:
    kept, lost = await session_with_jobs(database, 2)
    run = await taken(database, kept, longest_run=2)
    await database.tx(lambda conn: jobs.cancel(conn, scope_of(lost), lost.id, reason="test"))
    await database.tx(lambda conn: jobs.give_back(conn, run, reason="stop"))
    assert [(await read(database, job)).status for job in (kept, lost)] == [JobStatus.QUEUED, JobStatus.CANCELLED]
    assert await history(database, kept) == ["queued", "taken", "given-back"]
    assert await history(database, lost) == ["queued", "taken", "cancelled"]


async def test_what_a_revoked_key_sent_is_cancelled_with_that_reason(database: Database) -> None:
    scope = await new_scope(database)

    def add_key(conn: Connection) -> None:
        conn.execute(
            api_keys.insert().values(
                id="k", team_id=scope.team_id, name="k", key_hash="h", scopes="[]", created_at=1, revoked_at=2
            )
        )

    await database.tx(add_key)
    revoked, fine = await store(database, new_event(scope, "s", api_key_id="k"), new_event(scope, "s"))
    assert (await taken(database, revoked)).ids == [fine.id]
    cancelled = await read(database, revoked)
    assert (cancelled.status, cancelled.last_error) == (JobStatus.CANCELLED, taking.KEY_REVOKED)


async def test_a_job_of_no_session_is_its_messages_own(database: Database) -> None:
    scope = await new_scope(database)
    first, second = await store(database, new_event(scope, None), new_event(scope, None))
    assert (await taken(database, second)).ids == [second.id]
    assert (await taken(database, first, token="u")).ids == [first.id]
    assert isinstance(await take(database, first, token="v"), Later)


async def test_a_finished_job_cannot_be_finished_again_and_a_completed_one_not_retried(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    run = await taken(database, job)
    await complete(database, run)
    with pytest.raises(ClaimLost):
        await complete(database, run)
    for illegal in (jobs.retry, cancel):
        with pytest.raises(IllegalTransition):
            await apply(database, illegal, scope_of(job), job)


async def test_another_tenant_sees_and_changes_nothing(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    foreign = await new_scope(database)
    for scope in (foreign, Scope(job.team_id, foreign.project_id), Scope(foreign.team_id, job.project_id)):
        for touch in (jobs.get, jobs.retry, cancel):
            with pytest.raises(NotFound):
                await apply(database, touch, scope, job)
    assert (await read(database, job)).status is JobStatus.QUEUED


async def test_reconcile_queues_what_nobody_holds_and_dead_letters_what_has_no_attempt_left(
    database: Database,
) -> None:
    (tried,) = await session_with_jobs(database, 1)
    (spent,) = await session_with_jobs(database, 1, max_attempts=1)
    for job in (tried, spent):
        await taken(database, job)
    assert await database.tx(heads.expire_leases) == 0
    await end_lease(database, tried, spent)
    assert await database.tx(heads.expire_leases) == 2
    assert (await read(database, tried)).status is JobStatus.QUEUED
    assert (await read(database, spent)).status is JobStatus.FAILED


async def test_only_due_heads_are_rung_and_not_again_soon(database: Database) -> None:
    first, _ = await session_with_jobs(database, 2)
    scope = await new_scope(database)
    (loose,) = await store(database, new_event(scope, None))
    busy, _ = await session_with_jobs(database, 2)
    await taken(database, busy)
    rung, place = await database.tx(lambda conn: heads.ring_page(conn, heads.Place()))
    assert {job.id for job in rung} == {first.id, loose.id}
    assert place.is_end
    again, _ = await database.tx(lambda conn: heads.ring_page(conn, heads.Place()))
    assert again == []
    everything, _ = await database.tx(lambda conn: heads.ring_page(conn, heads.Place(), everything=True))
    assert {job.id for job in everything} == {first.id, loose.id}


async def test_the_walk_over_heads_goes_on_where_a_page_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "PAGE", 3)
    expected = {(await session_with_jobs(database, 2))[0].id for _ in range(7)}
    place, rung, pages = heads.Place(), set[str](), 0
    while not place.is_end:
        page, place = await ring(database, place)
        rung |= {job.id for job in page}
        pages += 1
    assert rung == expected
    assert pages == 3


async def test_every_step_is_in_the_jobs_own_history(database: Database) -> None:
    (job,) = await session_with_jobs(database, 1)
    await complete(database, await taken(database, job))
    assert await history(database, job) == ["queued", "taken", "completed"]


async def history(database: Database, job: Job) -> list[str]:
    table = observation_generation_job_events
    steps = select(table.c.event).where(table.c.job_id == job.id).order_by(table.c.id)
    return list(await database.read(lambda conn: conn.execute(steps).scalars().all()))


async def test_a_job_held_by_a_dead_process_of_this_machine_is_put_back(database: Database) -> None:
    dead_identity = _identity_of_a_process_that_ended()
    (job,) = await session_with_jobs(database, 1)
    await database.tx(
        lambda conn: taking.take(conn, Wanted(job.session_id, job.id, "t"), terms_of(worker=dead_identity), wall_ms=NOW)
    )
    holders = await database.read(heads.dead_holders)
    assert holders == [dead_identity]
    assert len(await database.tx(lambda conn: heads.release_held_by(conn, holders))) == 1
    back = await read(database, job)
    assert (back.status, back.attempts) == (JobStatus.QUEUED, 1)


async def test_a_clock_that_stands_years_off_moves_no_lease(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = await session_with_jobs(database, 1)
    await taken(database, job)
    monkeypatch.setattr("time.time_ns", lambda: 1)
    assert isinstance(await take(database, job, token="u"), Later)
    monkeypatch.setattr("time.time_ns", lambda: 4_000_000_000_000_000_000)
    assert isinstance(await take(database, job, token="u"), Later)


def _identity_of_a_process_that_ended() -> str:
    code = "from onlooker.host import ProcessIdentity; print(ProcessIdentity.of_this_process())"
    return subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True).stdout.strip()
