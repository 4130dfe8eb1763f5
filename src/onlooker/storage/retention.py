"""How long a project keeps what it has; a project without a row keeps everything."""

from dataclasses import dataclass

from sqlalchemy import delete, select

from onlooker.domain.models import Scope
from onlooker.storage.database import Connection
from onlooker.storage.tables import retention
from onlooker.storage.tenancy import belongs


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days events, and observations, are kept; None means for ever."""

    events_days: int | None = None
    observations_days: int | None = None


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
