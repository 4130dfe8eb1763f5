"""What happened around a moment of a project: notes and prompts, in order."""

from sqlalchemy import ColumnElement, Table, and_, or_, select

from onlooker.domain.models import Observation, Prompt, Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.observations import COLUMNS, read_observation
from onlooker.storage.tables import IS_PROMPT, agent_events, observations
from onlooker.storage.tenancy import belongs

NOTES, EVENTS = observations, agent_events


def notes_around(
    conn: Connection, scope: Scope, at: int, note_id: str = "", *, before: int, after: int, session_id: str | None
) -> tuple[list[Observation], list[Observation]]:
    """Up to `before` notes earlier than a moment, and up to `after` at it or later, in order; hidden ones left out.

    `at` is in epoch milliseconds; of notes of one time the id decides, and `note_id` is where among them the moment is.
    """
    dialect.plan_by_values(conn)
    earlier = or_(NOTES.c.occurred_at < at, and_(NOTES.c.occurred_at == at, NOTES.c.id < note_id))
    later = or_(NOTES.c.occurred_at > at, and_(NOTES.c.occurred_at == at, NOTES.c.id >= note_id))
    shown = [*belongs(NOTES, scope), NOTES.c.hidden.is_(False), *_of_session(NOTES, session_id)]
    time, number = NOTES.c.occurred_at, NOTES.c.id
    # The first condition alone bounds what an index reads.
    back = select(*COLUMNS).where(*shown, time <= at, earlier).order_by(time.desc(), number.desc()).limit(before)
    on = select(*COLUMNS).where(*shown, time >= at, later).order_by(time, number).limit(after)
    found = [read_observation(row) for row in conn.execute(back)]
    return found[::-1], [read_observation(row) for row in conn.execute(on)]


def latest_moment(conn: Connection, scope: Scope, *, session_id: str | None) -> int | None:
    """When the last note of a project, or of a session of it, happened, or else the last prompt; None without any."""
    for table, shown in ((NOTES, NOTES.c.hidden.is_(False)), (EVENTS, IS_PROMPT)):
        wanted = (*belongs(table, scope), *_of_session(table, session_id))
        latest = select(table.c.occurred_at).where(*wanted, shown).order_by(table.c.occurred_at.desc()).limit(1)
        at = conn.execute(latest).scalar_one_or_none()
        if at is not None:
            return int(at)
    return None


def prompts_around(
    conn: Connection,
    scope: Scope,
    at: int,
    *,
    since: int | None,
    until: int | None,
    session_id: str | None,
    limit: int,
) -> list[Prompt]:
    """The last `limit` prompts before a moment and the first at it or later, in order, both ends of a time included."""
    dialect.plan_by_values(conn)
    time, number = EVENTS.c.occurred_at, EVENTS.c.id
    shown = (*belongs(EVENTS, scope), *_of_session(EVENTS, session_id))
    prompts = select(number, EVENTS.c.session_id, EVENTS.c.payload, time).where(*shown, IS_PROMPT).limit(limit)
    back = prompts.where(time < at, *([] if since is None else [time >= since])).order_by(time.desc(), number.desc())
    on = prompts.where(time >= at, *([] if until is None else [time <= until])).order_by(time, number)
    earlier = [Prompt(*row) for row in conn.execute(back)]
    return [*reversed(earlier), *(Prompt(*row) for row in conn.execute(on))]


def _of_session(table: Table, session_id: str | None) -> list[ColumnElement[bool]]:
    return [] if session_id is None else [table.c.session_id == session_id]
