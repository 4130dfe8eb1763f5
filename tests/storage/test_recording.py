"""The grouped write of events, on both databases."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select

from observed import new_event, new_scope
from onlooker.domain import keys
from onlooker.domain.errors import NotFound
from onlooker.domain.jobs import JobKind, JobStatus
from onlooker.domain.models import Event, NewEvent, Recorded, Scope
from onlooker.host import new_id
from onlooker.storage import dialect, events, jobs, recording, sessions, turns
from onlooker.storage.database import Connection, Database
from onlooker.storage.tables import (
    agent_events,
    audit_log,
    metadata,
    observation_generation_job_events,
    observation_generation_jobs,
    server_sessions,
    teams,
)

CONCURRENT = 32


async def record(database: Database, *new: NewEvent, max_attempts: int = 5) -> list[Recorded]:
    return await database.tx(lambda conn: recording.record_events(conn, new, max_attempts=max_attempts))


async def count_rows(database: Database) -> dict[str, int]:
    """How many rows each table has: what stays the same when nothing is changed."""

    def work(conn: Connection) -> dict[str, int]:
        tables = metadata.sorted_tables
        return {table.name: conn.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}

    return await database.read(work)


async def events_of(database: Database, scope: Scope, name: str) -> list[Event]:
    """The events of the agent's session of that name, in order."""

    def work(conn: Connection) -> list[Event]:
        session = sessions.find_by_content(conn, scope, name)
        return [] if session is None else events.events_of_session(conn, scope, session.id)

    return await database.read(work)


def same_again(event: NewEvent, **given: Any) -> NewEvent:
    """What arrives when a sender sends the event again: its key is the same, its id is ours and another."""
    return event._replace(id=new_id(), **given)


@pytest.mark.parametrize("count", [1, 31, 300, 1_000])
async def test_of_any_number_of_rows_those_are_written_that_are_new(database: Database, count: int) -> None:
    names = ("id", "name", "created_at")
    wanted = [(new_id(), f"team {number}", number) for number in range(count)]
    known = wanted[::7]

    def insert(rows: Sequence[tuple[str, str, int]]) -> Callable[[Connection], int]:
        return lambda conn: dialect.insert_new(conn, teams, names, rows)

    before = (await count_rows(database))["teams"]
    assert await database.tx(insert(known)) == len(known)
    assert await database.tx(insert([*wanted, wanted[0]])) == count - len(known)
    assert (await count_rows(database))["teams"] == before + count


async def test_an_event_is_stored_with_its_session_job_history_and_audit(database: Database) -> None:
    scope = await new_scope(database)
    event = new_event(scope, "agent-1")._replace(api_key_id="key-1", agent_id="a", agent_type="reviewer")

    (recorded,) = await record(database, event, max_attempts=3)

    assert not recorded.duplicate
    stored = await database.read(lambda conn: events.get_event(conn, scope, event.id))
    assert stored == recorded.event
    assert (stored.seq, stored.payload_json, stored.api_key_id) == (1, event.payload_json, "key-1")
    session = await database.read(lambda conn: sessions.get(conn, scope, stored.session_id or ""))
    assert (session.content_session_id, session.agent_type, session.last_seq) == ("agent-1", "reviewer", 1)
    job = await database.read(lambda conn: events.job_of_event(conn, scope, stored))
    assert job == recorded.job
    assert job is not None
    assert (job.kind, job.status, job.source_id, job.seq) == (JobKind.EVENT, JobStatus.QUEUED, event.id, 1)
    assert (job.session_id, job.max_attempts, job.tool_name) == (session.id, 3, "Bash")
    assert job.id == keys.job_id(JobKind.EVENT, scope.team_id, scope.project_id, "event", event.id)
    history = await database.read(lambda conn: conn.execute(select(observation_generation_job_events)).all())
    assert [(row.job_id, row.event) for row in history] == [(job.id, "queued")]
    audit = await database.read(lambda conn: conn.execute(select(audit_log)).all())
    assert [(row.api_key_id, row.action, row.subject_id) for row in audit] == [("key-1", recording.RECORDED, event.id)]


async def test_an_event_sent_again_changes_nothing_and_gives_the_first_row_and_job(database: Database) -> None:
    scope = await new_scope(database)
    event = new_event(scope, "agent-1")
    (first,) = await record(database, event)
    before = await count_rows(database)

    again = same_again(event, payload_json='{"other":1}', received_at=event.received_at + 1)
    (second,) = await record(database, again)

    assert second.duplicate
    assert (second.event, second.job) == (first.event, first.job)
    assert await count_rows(database) == before
    session = await database.read(lambda conn: sessions.get(conn, scope, first.event.session_id or ""))
    assert session.last_seq == 1


async def test_an_event_with_a_source_id_is_known_again_whatever_session_it_names(database: Database) -> None:
    scope = await new_scope(database)
    event = new_event(scope, None)._replace(source_event_id="source-1")
    (first,) = await record(database, event)

    (second,) = await record(database, same_again(event, content_session_id="agent-9"))

    assert second.duplicate
    assert second.event == first.event
    assert second.event.session_id is None


async def test_equal_events_in_one_group_are_one_row(database: Database) -> None:
    scope = await new_scope(database)
    event, other = new_event(scope, "agent-1"), new_event(scope, "agent-1")

    recorded = await record(database, event, other, same_again(event))

    assert [each.duplicate for each in recorded] == [False, False, True]
    assert [each.event.seq for each in recorded] == [1, 2, 1]
    assert recorded[2].job == recorded[0].job


async def test_of_many_that_store_the_same_event_at_once_one_does(database: Database) -> None:
    scope = await new_scope(database)
    for session in ("agent-1", None):
        event = new_event(scope, session)
        answers = await asyncio.gather(*(record(database, same_again(event)) for _ in range(CONCURRENT)))

        recorded = [each for answer in answers for each in answer]
        assert sorted(each.duplicate for each in recorded) == [False] + [True] * (CONCURRENT - 1)
        assert len({each.event.id for each in recorded}) == 1
        assert len({each.job.id for each in recorded if each.job}) == 1
    assert (await count_rows(database))[agent_events.name] == 2
    assert (await count_rows(database))[observation_generation_jobs.name] == 2
    assert (await count_rows(database))[observation_generation_job_events.name] == 2


async def test_of_many_that_name_a_new_session_at_once_one_opens_it(database: Database) -> None:
    scope = await new_scope(database)

    answers = await asyncio.gather(*(record(database, new_event(scope, "agent-1")) for _ in range(CONCURRENT)))

    recorded = [each for answer in answers for each in answer]
    assert len({each.event.session_id for each in recorded}) == 1
    assert sorted(each.event.seq or 0 for each in recorded) == list(range(1, CONCURRENT + 1))
    assert (await count_rows(database))[server_sessions.name] == 1


async def test_places_follow_the_commits_without_a_gap_where_groups_meet(database: Database) -> None:
    scope = await new_scope(database)
    names = ["agent-1", "agent-2", "agent-3"]
    groups = [[new_event(scope, names[(i + j) % 3]) for j in range(7)] for i in range(CONCURRENT)]

    await asyncio.gather(*(record(database, *group) for group in groups))

    for name in names:
        stored = await events_of(database, scope, name)
        assert [event.seq for event in stored] == list(range(1, len(stored) + 1))
        place = {event.id: event.seq or 0 for event in stored}
        for group in groups:
            mine = [place[event.id] for event in group if event.content_session_id == name]
            assert mine == sorted(mine)


async def test_order_is_the_order_of_arrival_though_clocks_are_ten_minutes_apart(database: Database) -> None:
    scope = await new_scope(database)
    ahead, behind = 1_790_000_600_000, 1_790_000_000_000
    arriving = [
        new_event(scope, "agent-1")._replace(received_at=clock, occurred_at=clock) for clock in (ahead, behind, ahead)
    ]

    for event in arriving:
        await record(database, event)

    stored = await events_of(database, scope, "agent-1")
    assert [event.id for event in stored] == [event.id for event in arriving]


async def test_an_event_stored_without_a_job_gets_it_when_it_is_sent_again_for_one(database: Database) -> None:
    scope = await new_scope(database)
    for session in ("agent-1", None):
        event = new_event(scope, session)._replace(generate=False)
        (first,) = await record(database, event)
        assert first.job is None

        answers = await asyncio.gather(*(record(database, same_again(event, generate=True)) for _ in range(CONCURRENT)))

        jobs_made = {each.job for answer in answers for each in answer}
        assert len(jobs_made) == 1
        (job,) = jobs_made
        assert job is not None
        assert (job.source_id, job.seq, job.session_id) == (event.id, first.event.seq, first.event.session_id)
    assert (await count_rows(database))[observation_generation_job_events.name] == 2


async def test_an_event_of_no_session_has_a_job_of_no_session(database: Database) -> None:
    scope = await new_scope(database)

    (recorded,) = await record(database, new_event(scope, None))

    assert recorded.event.seq is None
    assert recorded.job is not None
    assert (recorded.job.session_id, recorded.job.seq) == (None, None)


async def test_the_end_of_a_turn_has_one_summary_job_behind_the_turns_events(database: Database) -> None:
    scope = await new_scope(database)
    turn_end = new_event(scope, "agent-1", event_type="turn_end")

    one = await record(database, new_event(scope, "agent-1"), new_event(scope, "agent-1"), turn_end)
    two = await record(
        database, new_event(scope, "agent-1"), new_event(scope, "agent-1", event_type="turn_end"), same_again(turn_end)
    )

    assert two[2].duplicate
    assert two[2].job == one[2].job
    session_id = one[0].event.session_id or ""
    written = await database.read(lambda conn: turns.turns_of_session(conn, scope, session_id))
    assert [(turn.ordinal, turn.first_seq, turn.last_seq) for turn in written] == [(1, 0, 3), (2, 3, 5)]
    for recorded, turn in ((one[2], written[0]), (two[1], written[1])):
        job = recorded.job
        assert job is not None
        assert (job.kind, job.source_type, job.source_id) == (JobKind.SUMMARY, "turn", turn.id)
        assert job.seq == turn.last_seq
        assert turn.id == keys.turn_id(session_id, turn.ordinal)
    of_second = await database.read(lambda conn: events.events_of_turn(conn, scope, written[1].id))
    assert [event.seq for event in of_second] == [4, 5]
    assert len(await live_jobs(database, scope)) == 5


async def test_a_long_turn_is_read_from_its_end(database: Database) -> None:
    scope = await new_scope(database)
    recorded = await record(
        database,
        *(new_event(scope, "agent-1") for _ in range(9)),
        new_event(scope, "agent-1", event_type="turn_end"),
    )
    turn_id = recorded[-1].job.source_id if recorded[-1].job else ""

    last = await database.read(lambda conn: events.events_of_turn(conn, scope, turn_id, limit=4))

    assert [event.seq for event in last] == [7, 8, 9, 10]


async def test_a_turn_end_that_was_stored_without_a_job_gets_its_summary_later(database: Database) -> None:
    scope = await new_scope(database)
    turn_end = new_event(scope, "agent-1", event_type="turn_end")._replace(generate=False)
    await record(database, turn_end)

    (again,) = await record(database, same_again(turn_end, generate=True))

    assert again.job is not None
    assert (again.job.kind, again.job.source_type) == (JobKind.SUMMARY, "turn")


async def test_a_turn_that_ends_outside_a_session_is_an_event_like_others(database: Database) -> None:
    scope = await new_scope(database)

    (recorded,) = await record(database, new_event(scope, None, event_type="turn_end"))

    assert recorded.job is not None
    assert recorded.job.kind is JobKind.EVENT


async def test_events_of_one_request_and_no_session_share_a_job(database: Database) -> None:
    scope = await new_scope(database)
    batch = [new_event(scope, None)._replace(batch="b") for _ in range(3)]
    in_session = new_event(scope, "agent-1")._replace(batch="b")
    alone = new_event(scope, None)._replace(batch="other")

    recorded = await record(database, *batch, in_session, alone)

    shared = {each.job for each in recorded[:3]}
    assert len(shared) == 1
    (job,) = shared
    assert job is not None
    assert (job.kind, job.source_type, job.session_id) == (JobKind.EVENT_BATCH, "event-batch", None)
    assert job.source_id == keys.batch_source_id(event.id for event in batch)
    assert [each.job.kind for each in recorded[3:] if each.job] == [JobKind.EVENT, JobKind.EVENT]
    members = await database.read(lambda conn: events.events_of_batch(conn, scope, job.source_id))
    assert [event.id for event in members] == [event.id for event in batch]
    (again,) = await record(database, same_again(batch[1], batch="c"))
    assert again.job == job


async def test_a_session_that_is_not_of_the_project_refuses_the_whole_call(database: Database) -> None:
    scope, foreign = await new_scope(database), await new_scope(database)
    (theirs,) = await record(database, new_event(foreign, "agent-1"))
    before = await count_rows(database)

    for session_id in (theirs.event.session_id, new_id()):
        with pytest.raises(NotFound):
            await record(database, new_event(scope, "agent-2"), new_event(scope, None)._replace(session_id=session_id))

    assert await count_rows(database) == before


async def test_a_bad_request_fails_alone_when_requests_run_apart(database: Database) -> None:
    scope = await new_scope(database)
    good, late = new_event(scope, "agent-1"), new_event(scope, "agent-1")
    bad = [new_event(scope, "agent-2"), new_event(scope, None)._replace(session_id=new_id())]
    unstorable = new_event(Scope(scope.team_id, new_id()), "agent-1")
    requests: Sequence[Sequence[NewEvent]] = [[good], bad, [unstorable], [late]]

    answers = await database.tx(lambda conn: recording.record_apart(conn, requests, max_attempts=5))

    assert [isinstance(answer, Exception) for answer in answers] == [False, True, True, False]
    assert isinstance(answers[1], NotFound)
    stored = await events_of(database, scope, "agent-1")
    assert [event.id for event in stored] == [good.id, late.id]
    assert await database.read(lambda conn: sessions.find_by_content(conn, scope, "agent-2")) is None


async def test_events_of_several_projects_in_one_group_keep_to_their_own(database: Database) -> None:
    one, two = await new_scope(database), await new_scope(database)
    first, second = new_event(one, "agent-1"), new_event(two, "agent-1")
    second = second._replace(event_key=first.event_key)

    recorded = await record(database, first, second)

    assert [each.duplicate for each in recorded] == [False, False]
    assert recorded[0].event.session_id != recorded[1].event.session_id
    assert [each.event.seq for each in recorded] == [1, 1]


async def test_a_foreign_scope_sees_no_event_and_no_job(database: Database) -> None:
    scope, foreign = await new_scope(database), await new_scope(database)
    half_foreign = [Scope(foreign.team_id, scope.project_id), Scope(scope.team_id, foreign.project_id)]
    turn_end = new_event(scope, "agent-1", event_type="turn_end")
    batch = [new_event(scope, None)._replace(batch="b") for _ in range(2)]
    recorded = await record(database, turn_end, *batch)
    event = recorded[0].event
    turn_id = recorded[0].job.source_id if recorded[0].job else ""
    batch_id = recorded[1].event.batch_id or ""

    for other in (foreign, *half_foreign):

        def look(conn: Connection, other: Scope = other) -> list[object]:
            return [
                *events.events_by_ids(conn, other, [event.id]),
                *events.events_by_keys(conn, other, [event.event_key]),
                *events.events_of_batch(conn, other, batch_id),
                *events.events_of_turn(conn, other, turn_id),
                *events.events_of_session(conn, other, event.session_id or ""),
                *([turn] if (turn := turns.turn_ended_by(conn, other, event)) else []),
                *([job] if (job := events.job_of_event(conn, other, event)) else []),
            ]

        assert await database.read(look) == []
        with pytest.raises(NotFound):
            await database.read(partial(events.get_event, scope=other, event_id=event.id))


async def test_a_session_is_read_in_pages(database: Database) -> None:
    scope = await new_scope(database)
    recorded = await record(database, *(new_event(scope, "agent-1") for _ in range(5)))
    session_id = recorded[0].event.session_id or ""

    first = await database.read(lambda conn: events.events_of_session(conn, scope, session_id, limit=3))
    rest = await database.read(
        lambda conn: events.events_of_session(conn, scope, session_id, after_seq=first[-1].seq or 0, limit=3)
    )

    assert [event.seq for event in (*first, *rest)] == [1, 2, 3, 4, 5]


async def live_jobs(database: Database, scope: Scope) -> list[str]:
    wanted = select(jobs.JOBS.c.id).where(jobs.JOBS.c.project_id == scope.project_id, jobs.IS_LIVE)
    return await database.read(lambda conn: list(conn.execute(wanted).scalars()))
