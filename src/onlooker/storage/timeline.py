"""What happened around a moment of a project: notes and prompts, in order."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, TextClause, and_, or_, select

from onlooker.domain.models import Observation, Prompt, Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.observations import COLUMNS, read_observation
from onlooker.storage.tables import IS_PROMPT, agent_events, observations
from onlooker.storage.tenancy import belongs

NOTES, EVENTS = observations, agent_events


def notes_around(
    conn: Connection, scope: Scope, at: int, note_id: str = "", *, before: int, after: int, session_id: str | None
) -> list[Observation]:
    """Up to `before` notes earlier than a moment and `after` at it or later, in order; hidden ones left out.

    `at` is in epoch milliseconds; of notes of one time the id decides, and `note_id` is where among them the moment is.
    """
    dialect.plan_by_values(conn)
    earlier = or_(NOTES.c.occurred_at < at, and_(NOTES.c.occurred_at == at, NOTES.c.id < note_id))
    later = or_(NOTES.c.occurred_at > at, and_(NOTES.c.occurred_at == at, NOTES.c.id >= note_id))
    shown = [*belongs(NOTES, scope), NOTES.c.hidden.is_(False)]
    if session_id is not None:
        shown.append(NOTES.c.session_id == session_id)
    time, number = NOTES.c.occurred_at, NOTES.c.id
    # The first condition alone bounds what an index reads.
    back = select(*COLUMNS).where(*shown, time <= at, earlier).order_by(time.desc(), number.desc()).limit(before)
    on = select(*COLUMNS).where(*shown, time >= at, later).order_by(time, number).limit(after)
    found = [read_observation(row) for row in conn.execute(back)]
    return [*reversed(found), *(read_observation(row) for row in conn.execute(on))]


def latest_moment(conn: Connection, scope: Scope, *, session_id: str | None) -> int | None:
    """When the last note of a project, or of a session of it, happened; None where there is none."""
    shown: list[ColumnElement[bool]] = [*belongs(NOTES, scope), NOTES.c.hidden.is_(False)]
    if session_id is not None:
        shown.append(NOTES.c.session_id == session_id)
    latest = select(NOTES.c.occurred_at).where(*shown).order_by(NOTES.c.occurred_at.desc()).limit(1)
    return conn.execute(latest).scalar_one_or_none()


def prompts_between(
    conn: Connection, scope: Scope, since: int, until: int, *, session_id: str | None, limit: int
) -> Sequence[Prompt]:
    """The first `limit` prompts of a time, both ends included, in order."""
    dialect.plan_by_values(conn)
    wanted: list[ColumnElement[bool] | TextClause] = [
        *belongs(EVENTS, scope),
        IS_PROMPT,
        EVENTS.c.occurred_at >= since,
        EVENTS.c.occurred_at <= until,
    ]
    if session_id is not None:
        wanted.append(EVENTS.c.session_id == session_id)
    columns = (EVENTS.c.id, EVENTS.c.session_id, EVENTS.c.payload, EVENTS.c.occurred_at)
    ordered = select(*columns).where(*wanted).order_by(EVENTS.c.occurred_at, EVENTS.c.id).limit(limit)
    return [Prompt(*row) for row in conn.execute(ordered)]
