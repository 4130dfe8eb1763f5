"""What a new session is told of a project: its latest notes, those of a few kinds, and what was asked last."""

from sqlalchemy import ColumnElement, TextClause, select

from onlooker.domain.models import Observation, Prompt, Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.observations import COLUMNS, read_observation
from onlooker.storage.tables import IS_PROMPT, IS_WEIGHTY, agent_events, observations
from onlooker.storage.tenancy import belongs

NOTES, EVENTS = observations, agent_events


def latest_notes(conn: Connection, scope: Scope, *, limit: int, session_id: str | None = None) -> list[Observation]:
    """The latest notes that still hold, newest first: not hidden or superseded; of a session, where one is given."""
    of_session = () if session_id is None else (NOTES.c.session_id == session_id,)
    return _latest(conn, scope, limit, *of_session)


def weighty_notes(conn: Connection, scope: Scope, *, limit: int) -> list[Observation]:
    """The latest decisions, warnings and notes of people's own that still hold, newest first."""
    return _latest(conn, scope, limit, IS_WEIGHTY)


def _latest(conn: Connection, scope: Scope, limit: int, *more: ColumnElement[bool] | TextClause) -> list[Observation]:
    dialect.plan_by_values(conn)
    shown = select(*COLUMNS).where(
        *belongs(NOTES, scope), NOTES.c.hidden.is_(False), NOTES.c.superseded_by.is_(None), *more
    )
    rows = conn.execute(shown.order_by(NOTES.c.occurred_at.desc(), NOTES.c.id.desc()).limit(limit))
    return [read_observation(row) for row in rows]


def latest_prompts(conn: Connection, scope: Scope, session_id: str, *, limit: int) -> list[Prompt]:
    """What was asked last in a session, in order."""
    dialect.plan_by_values(conn)
    columns = (EVENTS.c.id, EVENTS.c.session_id, EVENTS.c.payload, EVENTS.c.occurred_at)
    asked = select(*columns).where(*belongs(EVENTS, scope), IS_PROMPT, EVENTS.c.session_id == session_id)
    rows = conn.execute(asked.order_by(EVENTS.c.seq.desc()).limit(limit))
    return [Prompt(*row) for row in reversed(rows.all())]
