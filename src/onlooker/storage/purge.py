"""Remove everything that was observed in a project: its memory, not its name and keys."""

from sqlalchemy import delete, func, select

from onlooker.domain.models import Scope
from onlooker.storage import dialect, search
from onlooker.storage.database import Connection
from onlooker.storage.tables import (
    agent_events,
    import_offsets,
    observation_generation_job_events,
    observation_generation_jobs,
    observation_sources,
    observations,
    server_sessions,
    session_transcripts,
    turns,
    utterances,
)
from onlooker.storage.tenancy import belongs

IN_ORDER = (
    observation_sources,
    observations,
    observation_generation_job_events,
    observation_generation_jobs,
    turns,
    utterances,
    agent_events,
    session_transcripts,
    server_sessions,
    import_offsets,
)
"""Children before their parents."""

COUNTED = {"observations": observations, "events": agent_events, "jobs": observation_generation_jobs}


def purge_project(conn: Connection, scope: Scope) -> dict[str, int]:
    """Delete the project's observations, events, jobs and sessions; how many there were of each.

    A message of a deleted job finds no row and is confirmed; a worker that holds one is refused.
    """
    dialect.lock_keys(conn, [f"project:{scope.project_id}"])
    counts: dict[str, int] = {}
    for name, table in COUNTED.items():
        owned = belongs(table, scope)
        counts[name] = conn.execute(select(func.count()).select_from(table).where(*owned)).scalar_one()
    search.remove_project(conn, scope)
    for table in IN_ORDER:
        conn.execute(delete(table).where(*belongs(table, scope)))
    return counts
