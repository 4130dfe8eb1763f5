"""How long a project keeps what it has; a project without a row keeps everything."""

from dataclasses import dataclass

from sqlalchemy import delete, select, update

from onlooker.domain.models import Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.tables import retention, schema_info
from onlooker.storage.tenancy import belongs

LOOK_LOCK = "onlooker.retention"


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days events, and observations, are kept; None means for ever."""

    events_days: int | None = None
    observations_days: int | None = None


@dataclass(frozen=True, slots=True)
class Believed:
    """The time by which ages are told, and what the clock said when it was last looked at; epoch milliseconds."""

    at: int
    looked_at: int


def get_believed(conn: Connection) -> Believed | None:
    """What was believed at the last look, None before the first; nobody else looks until the transaction ends."""
    dialect.lock_keys(conn, [LOOK_LOCK])
    row = conn.execute(select(schema_info.c.retention_at, schema_info.c.retention_looked_at)).one()
    return None if row.retention_at is None else Believed(row.retention_at, row.retention_looked_at)


def put_believed(conn: Connection, believed: Believed) -> None:
    """Keep what is believed for the next look."""
    conn.execute(update(schema_info).values(retention_at=believed.at, retention_looked_at=believed.looked_at))


def wall_clock(conn: Connection, own_ms: int) -> int:
    """The time that people set: that of Postgres, which is one for all its clients, else this machine's."""
    return own_ms if dialect.is_sqlite(conn) else dialect.read_clock(conn)


def get(conn: Connection, scope: Scope) -> Retention:
    """What holds for a project."""
    columns = (retention.c.events_days, retention.c.observations_days)
    row = conn.execute(select(*columns).where(*belongs(retention, scope))).one_or_none()
    return Retention() if row is None else Retention(*row)


def put(conn: Connection, scope: Scope, wanted: Retention) -> None:
    """Let this hold for a project from now on."""
    conn.execute(delete(retention).where(*belongs(retention, scope)))
    if wanted != Retention():
        conn.execute(
            retention.insert().values(
                team_id=scope.team_id,
                project_id=scope.project_id,
                events_days=wanted.events_days,
                observations_days=wanted.observations_days,
            )
        )


def limited(conn: Connection) -> list[tuple[Scope, Retention]]:
    """Every project, of every team, that does not keep everything."""
    rows = conn.execute(select(retention).order_by(retention.c.project_id))
    return [(Scope(row.team_id, row.project_id), Retention(row.events_days, row.observations_days)) for row in rows]
