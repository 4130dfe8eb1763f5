"""Observations and their sources, on both databases."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from observed import new_event, new_scope
from onlooker.domain.errors import NotFound
from onlooker.domain.models import Draft, Event, NewObservation, NewSource, Observation, ObservationKind, Scope
from onlooker.host import new_id
from onlooker.storage import observations, recording
from onlooker.storage.database import Connection, Database
from onlooker.storage.tables import observation_sources

CONCURRENT = 32
NOW = 1_790_000_000_000

DRAFT = Draft(
    kind=ObservationKind.BUGFIX,
    title="Count an empty file as nothing",
    subtitle="tally",
    narrative="An empty file gave -1.",
    facts=("tally.count('') is 0", "héé: ☃"),
    concepts=("edge case",),
    files_read=("tally.py",),
    files_modified=("tally.py", "test_tally.py"),
)


async def new_source_event(database: Database, scope: Scope) -> Event:
    event = new_event(scope, "agent-1")
    (recorded,) = await database.tx(lambda conn: recording.record_events(conn, [event], max_attempts=5))
    return recorded.event


def new_observation(key: str, event: Event | None = None, *, at: int = NOW) -> NewObservation:
    sources = () if event is None else (NewSource("event", event.id, event.id, event.event_key),)
    return NewObservation(
        id=new_id(),
        draft=DRAFT,
        generation_key=key,
        occurred_at=at,
        created_at=NOW,
        content=DRAFT.content,
        session_id=None if event is None else event.session_id,
        created_by_job_id="job-1",
        provider="rules",
        model="m",
        prompt_version="1",
        platform_source="claude-code",
        sources=sources,
    )


async def store(database: Database, scope: Scope, *new: NewObservation) -> list[Observation]:
    return await database.tx(lambda conn: observations.store_observations(conn, scope, new, NOW + 1))


async def count_sources(database: Database) -> int:
    counted = select(func.count()).select_from(observation_sources)
    return await database.read(lambda conn: conn.execute(counted).scalar_one())


async def test_an_observation_is_stored_whole_with_what_it_was_made_from(database: Database) -> None:
    scope = await new_scope(database)
    event = await new_source_event(database, scope)

    (stored,) = await store(database, scope, new_observation("k", event))

    assert await database.read(lambda conn: observations.get_observation(conn, scope, stored.id)) == stored
    assert (stored.title, stored.facts, stored.files_modified) == (DRAFT.title, DRAFT.facts, DRAFT.files_modified)
    assert (stored.kind, stored.content, stored.hidden) == (ObservationKind.BUGFIX, DRAFT.content, False)
    ((of_event, source),) = await database.read(lambda conn: observations.observations_of_event(conn, scope, event.id))
    assert of_event == stored
    assert (source.observation_id, source.event_id, source.event_key) == (stored.id, event.id, event.event_key)
    linked = await database.read(lambda conn: observations.sources_of_observations(conn, scope, [stored.id, "none"]))
    assert linked == {stored.id: (source,)}
    assert await database.read(lambda conn: observations.observations_of_job(conn, scope, "job-1")) == [stored]
    of_session = await database.read(
        lambda conn: observations.observations_of_session(conn, scope, event.session_id or "", limit=5)
    )
    assert of_session == [stored]


async def test_an_observation_that_is_stored_again_stays_as_it_is(database: Database) -> None:
    scope = await new_scope(database)
    event = await new_source_event(database, scope)
    first = await store(database, scope, new_observation("a", event), new_observation("b", event))

    changed = replace(new_observation("a", event), draft=replace(DRAFT, title="else"))
    second = await store(database, scope, new_observation("c", event), changed, new_observation("b", event))

    assert second[1:] == first
    assert second[0].generation_key == "c"
    assert await count_sources(database) == 3


async def test_equal_keys_in_one_call_are_one_observation(database: Database) -> None:
    scope = await new_scope(database)

    one, two = await store(database, scope, new_observation("a"), new_observation("a"))

    assert one == two


async def test_of_many_that_store_the_same_answer_at_once_one_does(database: Database) -> None:
    scope = await new_scope(database)
    event = await new_source_event(database, scope)

    answers = await asyncio.gather(
        *(store(database, scope, new_observation("a", event), new_observation("b", event)) for _ in range(CONCURRENT))
    )

    assert len({tuple(note.id for note in answer) for answer in answers}) == 1
    assert await count_sources(database) == 2


async def test_two_projects_may_have_the_same_generation_key(database: Database) -> None:
    one, two = await new_scope(database), await new_scope(database)

    (first,), (second,) = (
        await store(database, one, new_observation("a")),
        await store(database, two, new_observation("a")),
    )

    assert first.id != second.id


async def test_notes_are_listed_by_when_it_happened_the_latest_first(database: Database) -> None:
    scope = await new_scope(database)
    stored = await store(database, scope, *(new_observation(str(at), at=NOW + at) for at in (3, 1, 2)))

    recent = await database.read(lambda conn: observations.recent_observations(conn, scope, limit=2))
    older = await database.read(lambda conn: observations.recent_observations(conn, scope, limit=2, offset=2))
    chosen = [stored[2].id, "none", stored[0].id, stored[2].id]
    by_id = await database.read(lambda conn: observations.observations_by_ids(conn, scope, chosen))

    assert [note.occurred_at - NOW for note in (*recent, *older)] == [3, 2, 1]
    assert by_id == [stored[2], stored[0]]


async def test_a_deleted_observation_is_gone_with_its_links_and_may_be_stored_again(database: Database) -> None:
    scope = await new_scope(database)
    event = await new_source_event(database, scope)
    (stored,) = await store(database, scope, new_observation("a", event))

    await database.tx(lambda conn: observations.delete_observation(conn, scope, stored.id, 1))

    with pytest.raises(NotFound):
        await database.read(lambda conn: observations.get_observation(conn, scope, stored.id))
    with pytest.raises(NotFound):
        await database.tx(lambda conn: observations.delete_observation(conn, scope, stored.id, 1))
    assert await count_sources(database) == 0
    assert len(await store(database, scope, new_observation("a", event))) == 1


async def test_a_foreign_scope_sees_and_changes_no_observation(database: Database) -> None:
    scope, foreign = await new_scope(database), await new_scope(database)
    event = await new_source_event(database, scope)
    (stored,) = await store(database, scope, new_observation("a", event))

    for other in (foreign, Scope(foreign.team_id, scope.project_id), Scope(scope.team_id, foreign.project_id)):

        def look(conn: Connection, other: Scope = other) -> list[object]:
            return [
                *observations.observations_by_ids(conn, other, [stored.id]),
                *observations.observations_of_event(conn, other, event.id),
                *observations.observations_of_job(conn, other, "job-1"),
                *observations.observations_of_session(conn, other, event.session_id or "", limit=5),
                *observations.recent_observations(conn, other, limit=5),
                *observations.sources_of_observations(conn, other, [stored.id]),
            ]

        def get(conn: Connection, other: Scope = other) -> Observation:
            return observations.get_observation(conn, other, stored.id)

        def remove(conn: Connection, other: Scope = other) -> None:
            observations.delete_observation(conn, other, stored.id, 1)

        assert await database.read(look) == []
        with pytest.raises(NotFound):
            await database.read(get)
        with pytest.raises(NotFound):
            await database.tx(remove)
    assert await database.read(lambda conn: observations.get_observation(conn, scope, stored.id)) == stored
