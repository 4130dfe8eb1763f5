"""Purging a project takes what was observed there, and nothing of anybody else, on both databases."""

from sqlalchemy import func, select

from observed import new_event, new_scope
from onlooker.domain.models import Draft, NewObservation, NewSource, ObservationKind, Scope
from onlooker.host import new_id
from onlooker.storage import observations, purge, recording
from onlooker.storage.database import Connection, Database
from onlooker.storage.tables import audit_log, metadata, projects

NOW = 1_790_000_000_000


async def observe(database: Database, scope: Scope) -> None:
    """An event in a session, its turn's end, one outside, and an observation."""
    event, turn_end, outside = (
        new_event(scope, "agent-1"),
        new_event(scope, "agent-1", event_type="turn_end"),
        new_event(scope, None),
    )

    def work(conn: Connection) -> None:
        recording.record_events(conn, [event, turn_end, outside], max_attempts=5)
        draft = Draft(ObservationKind.CHANGE, "a title")
        note = NewObservation(
            id=new_id(),
            draft=draft,
            generation_key=event.event_key,
            occurred_at=NOW,
            created_at=NOW,
            content=draft.content,
            sources=(NewSource("event", event.id, event.id, event.event_key),),
        )
        observations.store_observations(conn, scope, [note], NOW)

    await database.tx(work)


async def counts(database: Database, scope: Scope) -> dict[str, int]:
    """Rows of the scope by table, where there are any."""

    def work(conn: Connection) -> dict[str, int]:
        found = {}
        for table in metadata.sorted_tables:
            if "project_id" in table.c and table not in {audit_log, projects}:
                counted = select(func.count()).select_from(table).where(table.c.project_id == scope.project_id)
                found[table.name] = conn.execute(counted).scalar_one()
        return {name: count for name, count in found.items() if count}

    return await database.read(work)


async def test_a_purge_takes_all_of_a_project_and_nothing_else(database: Database) -> None:
    scope, other = await new_scope(database), await new_scope(database)
    await observe(database, scope)
    await observe(database, other)
    before = await counts(database, other)

    counted = await database.tx(lambda conn: purge.purge_project(conn, scope))
    again = await database.tx(lambda conn: purge.purge_project(conn, scope))

    assert counted == {"observations": 1, "events": 3, "jobs": 3}
    assert set(again.values()) == {0}
    assert await counts(database, scope) == {}
    assert await counts(database, other) == before
    await observe(database, scope)
    assert await counts(database, scope) == before


async def test_a_foreign_scope_purges_nothing(database: Database) -> None:
    scope, foreign = await new_scope(database), await new_scope(database)
    await observe(database, scope)
    before = await counts(database, scope)

    for other in (Scope(foreign.team_id, scope.project_id), Scope(scope.team_id, foreign.project_id), foreign):

        def work(conn: Connection, other: Scope = other) -> dict[str, int]:
            return purge.purge_project(conn, other)

        assert set((await database.tx(work)).values()) == {0}

    assert await counts(database, scope) == before
