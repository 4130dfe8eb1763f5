"""A tenant with events, made by the real storage code, for tests that begin after ingest."""

from itertools import count
from typing import Any

from sqlalchemy import update

from onlooker.domain.batching import Batching, GenerationPolicy
from onlooker.domain.models import Job, NewEvent, Scope
from onlooker.host import new_id
from onlooker.storage import dialect
from onlooker.storage.database import Connection, Database
from onlooker.storage.recording import record_events
from onlooker.storage.tables import observation_generation_jobs, projects, teams
from onlooker.storage.taking import Terms

_numbers = count(1)


def terms_of(
    *, worker: str = "w", lease_ms: int = 60_000, longest_run: int = 1, debounce_ms: int = 0, **given: Any
) -> Terms:
    """Terms on which jobs are taken at once, unless the test says other."""
    policy = given.pop("policy", GenerationPolicy.BATCH)
    return Terms(worker, lease_ms, Batching(policy, longest_run, 1_000_000, debounce_ms), **given)


async def new_scope(database: Database) -> Scope:
    """A team and a project of its own."""
    scope = Scope(new_id(), new_id())

    def work(conn: Connection) -> None:
        dialect.insert_new(conn, teams, ("id", "name", "created_at"), [(scope.team_id, scope.team_id, 1)])
        dialect.insert_new(
            conn, projects, ("id", "team_id", "name", "created_at"), [(scope.project_id, scope.team_id, "tally", 1)]
        )

    await database.tx(work)
    return scope


def new_event(scope: Scope, session: str | None, *, event_type: str = "tool_use", **given: Any) -> NewEvent:
    """An event of the agent's session of that name; each call gives another event."""
    number = next(_numbers)
    event = NewEvent(
        id=new_id(),
        scope=scope,
        event_key=f"key-{number}",
        source_type="hook",
        source_adapter="claude-code",
        event_type=event_type,
        payload_json=f'{{"tool_name":"Bash","tool_input":{{"command":"echo MARK-{number}"}}}}',
        occurred_at=1_790_000_000_000 + number,
        received_at=1_790_000_000_000 + number,
        content_session_id=session,
        tool_name="Bash",
    )
    return event._replace(**given)


async def store(database: Database, *events: NewEvent, max_attempts: int = 5) -> list[Job]:
    """Store the events in one group; their jobs, in order."""
    recorded = await database.tx(lambda conn: record_events(conn, events, max_attempts=max_attempts))
    return [each.job for each in recorded if each.job is not None]


async def session_with_jobs(database: Database, count_of_jobs: int, *, max_attempts: int = 5) -> list[Job]:
    """A tenant of its own with one session of so many queued jobs."""
    scope = await new_scope(database)
    return await store(
        database, *(new_event(scope, "agent-session") for _ in range(count_of_jobs)), max_attempts=max_attempts
    )


async def end_lease(database: Database, *jobs: Job) -> None:
    """Let the leases of these jobs be over, as if their time had passed."""
    table = observation_generation_jobs
    ids = [job.id for job in jobs]
    await database.tx(lambda conn: conn.execute(update(table).where(table.c.id.in_(ids)).values(lease_until=1)))
