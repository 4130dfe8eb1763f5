"""Which processes work: a heartbeat row each."""

from dataclasses import dataclass

from sqlalchemy import delete, select, update

from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.tables import workers

FORGET_AFTER_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A process that beat its heart lately."""

    id: str
    identity: str
    role: str
    started_at: int
    heartbeat_at: int


def beat(conn: Connection, worker_id: str, identity: str, role: str) -> None:
    """Say that this process lives, in the database's time; old rows of others go."""
    now = dialect.read_clock(conn)
    changed = conn.execute(update(workers).where(workers.c.id == worker_id).values(heartbeat_at=now))
    if not changed.rowcount:
        dialect.insert_new(
            conn,
            workers,
            ("id", "identity", "role", "started_at", "heartbeat_at"),
            [(worker_id, identity, role, now, now)],
        )
        conn.execute(delete(workers).where(workers.c.heartbeat_at < now - FORGET_AFTER_MS))


def leave(conn: Connection, worker_id: str) -> None:
    """The process ends by its own will."""
    conn.execute(delete(workers).where(workers.c.id == worker_id))


def seen_within(conn: Connection, window_ms: int) -> list[WorkerSeen]:
    """Those that beat within the window, oldest first."""
    now = dialect.read_clock(conn)
    rows = conn.execute(
        select(workers).where(workers.c.heartbeat_at >= now - window_ms).order_by(workers.c.started_at, workers.c.id)
    )
    return [WorkerSeen(**row._mapping) for row in rows]  # noqa: SLF001 - the documented way to a row as a mapping
