"""Turns and sessions that end, each with its one summary job."""

from collections.abc import Sequence
from dataclasses import astuple, fields

from sqlalchemy import bindparam, func, select, update

from onlooker.domain import keys
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Event, Job, Scope, Session, Turn
from onlooker.storage import dialect, sessions
from onlooker.storage.database import Connection
from onlooker.storage.new_jobs import Source, insert_jobs, new_job, stored_jobs
from onlooker.storage.tables import server_sessions, turns
from onlooker.storage.tenancy import is_owned, owner

TURN_END = "turn_end"
"""The event type that ends a turn of its session."""

COLUMNS = [turns.c[f.name] for f in fields(Turn)]
IS_OWNED = is_owned(turns)

_GET = select(*COLUMNS).where(*IS_OWNED, turns.c.id == bindparam("of_id"))
_LAST = (
    select(turns.c.session_id, func.max(turns.c.ordinal), func.max(turns.c.last_seq))
    .where(*IS_OWNED, dialect.among(turns.c.session_id, "of_sessions"))
    .group_by(turns.c.session_id)
)
_ENDED_BY = select(*COLUMNS).where(
    *IS_OWNED, turns.c.session_id == bindparam("of_session"), turns.c.last_seq == bindparam("at_seq")
)
_LIST = (
    select(*COLUMNS)
    .where(*IS_OWNED, turns.c.session_id == bindparam("of_session"))
    .order_by(turns.c.ordinal)
    .limit(bindparam("most"))
)
_END_SESSION = (
    update(server_sessions)
    .where(*is_owned(server_sessions), server_sessions.c.id == bindparam("of_id"), server_sessions.c.ended_at.is_(None))
    .values(ended_at=bindparam("at"), updated_at=bindparam("at"), endings=server_sessions.c.endings + 1)
)
_REOPEN_SESSION = (
    update(server_sessions)
    .where(
        *is_owned(server_sessions), server_sessions.c.id == bindparam("of_id"), server_sessions.c.ended_at.is_not(None)
    )
    .values(ended_at=None, updated_at=bindparam("at"))
)
_ENDINGS = select(server_sessions.c.endings).where(
    *is_owned(server_sessions), server_sessions.c.id == bindparam("of_id")
)


def end_turns(conn: Connection, scope: Scope, ending: Sequence[Event]) -> dict[str, Turn]:
    """Write the turns that these events end, by event id; each reaches from the last turn to its event.

    The events are new ones of locked sessions.
    """
    of_sessions = sorted({event.session_id for event in ending if event.session_id is not None})
    last = {
        session_id: (ordinal, last_seq)
        for session_id, ordinal, last_seq in conn.execute(_LAST, {**owner(scope), "of_sessions": of_sessions})
    }
    ended: dict[str, Turn] = {}
    for event in sorted(ending, key=lambda event: event.seq or 0):
        if event.session_id is None or event.seq is None:
            continue
        ordinal, first_seq = last.get(event.session_id, (0, 0))
        ended[event.id] = Turn(
            id=keys.turn_id(event.session_id, ordinal + 1),
            session_id=event.session_id,
            ordinal=ordinal + 1,
            first_seq=first_seq,
            last_seq=event.seq,
            ended_at=event.occurred_at,
        )
        last[event.session_id] = ordinal + 1, event.seq
    owned = scope.team_id, scope.project_id
    dialect.insert_new(
        conn,
        turns,
        ("team_id", "project_id", *(f.name for f in fields(Turn))),
        [(*owned, *astuple(turn)) for turn in ended.values()],
    )
    return ended


def get_turn(conn: Connection, scope: Scope, turn_id: str) -> Turn | None:
    """A turn of this tenant; None where there is none."""
    row = conn.execute(_GET, {**owner(scope), "of_id": turn_id}).one_or_none()
    return None if row is None else Turn(*row)


def turn_ended_by(conn: Connection, scope: Scope, event: Event) -> Turn | None:
    """The turn that a stored event ended; None for an event that ended none."""
    if event.event_type != TURN_END or event.session_id is None:
        return None
    values = {**owner(scope), "of_session": event.session_id, "at_seq": event.seq}
    row = conn.execute(_ENDED_BY, values).one_or_none()
    return None if row is None else Turn(*row)


def turns_of_session(conn: Connection, scope: Scope, session_id: str, *, limit: int = 1000) -> list[Turn]:
    """A session's turns in order."""
    rows = conn.execute(_LIST, {**owner(scope), "of_session": session_id, "most": limit})
    return [Turn(*row) for row in rows]


def end_session(
    conn: Connection,
    scope: Scope,
    session_id: str,
    *,
    ended_at: int,
    max_attempts: int,
    generate: bool = True,
    api_key_id: str | None = None,
) -> tuple[Session, Job | None, bool]:
    """End a session and queue its summary behind all its events; True when it was this call that ended it.

    Ending it again changes nothing and gives the same job; one that was reopened meanwhile has another summary, of
    all that is in it by then. Raises `NotFound`.
    """
    dialect.lock_keys(conn, [sessions.session_lock(session_id)])
    known = sessions.get(conn, scope, session_id)
    of_session = {**owner(scope), "of_id": session_id}
    if known.ended_at is None:
        conn.execute(_END_SESSION, {**of_session, "at": ended_at})
    ending = conn.execute(_ENDINGS, of_session).scalar_one()
    source = Source(JobKind.SUMMARY, "session", session_id if ending == 1 else f"{session_id}:{ending}")
    if known.ended_at is not None:
        return known, stored_jobs(conn, scope, [source.job_id(scope)]).get(source.job_id(scope)), False
    if not generate:
        return sessions.get(conn, scope, session_id), None, True
    seq = sessions.advance(conn, scope, {session_id: 1}, ended_at)[session_id]
    job = new_job(
        source,
        scope,
        session_id=session_id,
        seq=seq,
        max_attempts=max_attempts,
        now=ended_at,
        api_key_id=api_key_id,
    )
    insert_jobs(conn, [job])
    return sessions.get(conn, scope, session_id), job, True


def reopen_session(conn: Connection, scope: Scope, session_id: str, now: int) -> bool:
    """Let an ended session go on; False where it had not ended."""
    return conn.execute(_REOPEN_SESSION, {**owner(scope), "of_id": session_id, "at": now}).rowcount == 1
