"""What a new session is told of a project: its latest notes, those of a few kinds, and what was asked last."""

from collections.abc import Collection

from sqlalchemy import select

from onlooker.domain.models import Observation, ObservationKind, Prompt, Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.observations import COLUMNS, read_observation
from onlooker.storage.tables import IS_PROMPT, agent_events, observations
from onlooker.storage.tenancy import belongs

NOTES, EVENTS = observations, agent_events

LOOKED_AT = 5_000
"""How many of the latest notes are looked through for a rare kind: a project of any size takes the same time."""


def latest_notes(
    conn: Connection,
    scope: Scope,
    *,
    limit: int,
    kinds: Collection[ObservationKind] = (),
    session_id: str | None = None,
) -> list[Observation]:
    """The latest notes that still hold, newest first: not hidden or superseded, of these kinds if any."""
    dialect.plan_by_values(conn)
    shown = [*belongs(NOTES, scope), NOTES.c.hidden.is_(False), NOTES.c.superseded_by.is_(None)]
    if session_id is not None:
        shown.append(NOTES.c.session_id == session_id)
    order = NOTES.c.occurred_at.desc(), NOTES.c.id.desc()
    if not kinds:
        rows = conn.execute(select(*COLUMNS).where(*shown).order_by(*order).limit(limit))
        return [read_observation(row) for row in rows]
    latest = select(NOTES.c.id, NOTES.c.kind).where(*shown).order_by(*order).limit(LOOKED_AT).subquery()
    wanted = select(latest.c.id).where(latest.c.kind.in_(sorted(kinds)))
    of_kind = select(*COLUMNS).where(*belongs(NOTES, scope), NOTES.c.id.in_(wanted)).order_by(*order).limit(limit)
    return [read_observation(row) for row in conn.execute(of_kind)]


def latest_prompts(conn: Connection, scope: Scope, session_id: str, *, limit: int) -> list[Prompt]:
    """What was asked last in a session, in order."""
    dialect.plan_by_values(conn)
    columns = (EVENTS.c.id, EVENTS.c.session_id, EVENTS.c.payload, EVENTS.c.occurred_at)
    asked = select(*columns).where(*belongs(EVENTS, scope), IS_PROMPT, EVENTS.c.session_id == session_id)
    rows = conn.execute(asked.order_by(EVENTS.c.seq.desc()).limit(limit))
    return [Prompt(*row) for row in reversed(rows.all())]
