"""Sessions: opened once, read by their own tenant, ended once, on both databases."""

import asyncio
from dataclasses import replace

import pytest

from observed import new_event, new_scope, store
from onlooker.domain.errors import NotFound
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Job, NewSession, Scope, Session
from onlooker.host import new_id
from onlooker.storage import sessions, turns
from onlooker.storage.database import Connection, Database

CONCURRENT = 32
NOW = 1_790_000_000_000


async def open_session(database: Database, scope: Scope, **names: str | None) -> tuple[Session, bool]:
    new = NewSession(id=new_id(), started_at=NOW, **names)  # type: ignore[arg-type]  # the names are those of texts
    return await database.tx(lambda conn: sessions.open_session(conn, scope, new, NOW))


async def end(
    database: Database, scope: Scope, session_id: str, *, generate: bool = True
) -> tuple[Session, Job | None]:
    def work(conn: Connection) -> tuple[Session, Job | None]:
        session, job, _ = turns.end_session(
            conn, scope, session_id, ended_at=NOW + 5, max_attempts=5, generate=generate
        )
        return session, job

    return await database.tx(work)


async def test_a_session_is_opened_once_by_either_of_its_names(database: Database) -> None:
    scope = await new_scope(database)

    first, is_new = await open_session(
        database, scope, content_session_id="c", external_session_id="x", agent_type="reviewer", metadata_json='{"a":1}'
    )
    by_content, new_by_content = await open_session(database, scope, content_session_id="c", agent_type="other")
    by_external, new_by_external = await open_session(database, scope, external_session_id="x")

    assert is_new
    assert (first.agent_type, first.metadata_json, first.last_seq, first.ended_at) == ("reviewer", '{"a":1}', 0, None)
    assert (by_content, new_by_content) == (first, False)
    assert (by_external, new_by_external) == (first, False)


async def test_a_session_without_a_name_is_always_new(database: Database) -> None:
    scope = await new_scope(database)

    one, two = await open_session(database, scope), await open_session(database, scope)

    assert one[1]
    assert two[1]
    assert one[0].id != two[0].id


async def test_of_many_that_open_the_same_session_at_once_one_does(database: Database) -> None:
    scope = await new_scope(database)

    opened = await asyncio.gather(*(open_session(database, scope, content_session_id="c") for _ in range(CONCURRENT)))

    assert sorted(is_new for _, is_new in opened) == [False] * (CONCURRENT - 1) + [True]
    assert len({session.id for session, _ in opened}) == 1


async def test_two_projects_know_the_same_name_as_two_sessions(database: Database) -> None:
    one, two = await new_scope(database), await new_scope(database)

    first, _ = await open_session(database, one, content_session_id="c")
    second, is_new = await open_session(database, two, content_session_id="c")

    assert is_new
    assert first.id != second.id


async def test_sessions_are_listed_by_their_start_latest_first(database: Database) -> None:
    scope = await new_scope(database)
    started = [NewSession(id=new_id(), started_at=NOW + offset) for offset in (5, 9, 1)]
    for new in started:
        await database.tx(lambda conn, new=new: sessions.open_session(conn, scope, new, NOW))  # type: ignore[misc]  # bound now

    listed = await database.read(lambda conn: sessions.list_sessions(conn, scope, limit=2))
    rest = await database.read(lambda conn: sessions.list_sessions(conn, scope, limit=2, offset=2))

    assert [session.started_at - NOW for session in (*listed, *rest)] == [9, 5, 1]


async def test_a_session_ends_once_with_one_summary_behind_its_events(database: Database) -> None:
    scope = await new_scope(database)
    (event_job,) = await store(database, new_event(scope, "c"))
    session_id = event_job.session_id or ""

    ended = await asyncio.gather(*(end(database, scope, session_id) for _ in range(CONCURRENT)))

    assert len(set(ended)) == 1
    ((session, job),) = set(ended)
    assert job is not None
    assert session.ended_at == NOW + 5
    assert (job.kind, job.source_type, job.source_id, job.seq) == (JobKind.SUMMARY, "session", session_id, 2)
    (later,) = await store(database, new_event(scope, "c"))
    assert later.seq == 3
    assert await end(database, scope, session_id) == (replace(session, last_seq=3, updated_at=later.created_at), job)


async def test_a_session_may_end_without_a_summary(database: Database) -> None:
    scope = await new_scope(database)
    session, _ = await open_session(database, scope, content_session_id="c")

    ended, job = await end(database, scope, session.id, generate=False)

    assert (ended.ended_at, job) == (NOW + 5, None)
    assert (await end(database, scope, session.id))[1] is None


async def test_a_foreign_scope_sees_and_changes_no_session(database: Database) -> None:
    scope, foreign = await new_scope(database), await new_scope(database)
    session, _ = await open_session(database, scope, content_session_id="c", external_session_id="x")

    for other in (foreign, Scope(foreign.team_id, scope.project_id), Scope(scope.team_id, foreign.project_id)):

        def look(conn: Connection, other: Scope = other) -> tuple[object, ...]:
            return (
                sessions.find_by_content(conn, other, "c"),
                sessions.list_sessions(conn, other, limit=10),
                turns.turns_of_session(conn, other, session.id),
            )

        def change(conn: Connection, other: Scope = other) -> dict[str, int]:
            return sessions.advance(conn, other, {session.id: 1}, NOW)

        def get(conn: Connection, other: Scope = other) -> Session:
            return sessions.get(conn, other, session.id)

        assert await database.read(look) == (None, [], [])
        assert await database.tx(change) == {}
        with pytest.raises(NotFound):
            await database.read(get)
        with pytest.raises(NotFound):
            await end(database, other, session.id)
    assert await database.read(lambda conn: sessions.get(conn, scope, session.id)) == session
