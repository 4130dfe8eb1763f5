"""Why providers are not called: a row for each lane that is closed, written by whoever found out."""

from sqlalchemy import delete, select

from onlooker.domain.lanes import LaneCondition, LaneState
from onlooker.storage.database import Connection
from onlooker.storage.tables import provider_lanes


def post(conn: Connection, state: LaneState) -> None:
    """Say why a lane is closed and until when; the last word counts."""
    clear(conn, state.provider, state.endpoint)
    conn.execute(
        provider_lanes.insert().values(
            provider=state.provider,
            endpoint=state.endpoint,
            model=state.model,
            condition=str(state.condition),
            until=state.until,
            reason=state.reason,
        )
    )


def clear(conn: Connection, provider: str | None = None, endpoint: str | None = None) -> int:
    """Say that a lane is open, or with no name that all are; how many were closed."""
    which = delete(provider_lanes)
    if provider is not None:
        which = which.where(provider_lanes.c.provider == provider)
    if endpoint is not None:
        which = which.where(provider_lanes.c.endpoint == endpoint)
    return conn.execute(which).rowcount


def posted(conn: Connection) -> list[LaneState]:
    """The lanes that are closed, or were until a moment ago."""
    rows = conn.execute(select(provider_lanes).order_by(provider_lanes.c.provider, provider_lanes.c.endpoint))
    return [
        LaneState(row.provider, row.endpoint, row.model, LaneCondition(row.condition), row.until, row.reason)
        for row in rows
    ]
