"""Which sessions are open, which are written down where, and which of them their agents have ended."""

from dataclasses import dataclass

from sqlalchemy import and_, bindparam, exists, or_, select, update

from onlooker.domain import keys
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.tables import agent_events, observation_generation_jobs, server_sessions, session_transcripts
from onlooker.storage.tenancy import belongs, is_owned, owner

SESSIONS, FILES = server_sessions, session_transcripts
NAMES = ("team_id", "project_id", "session_id", "platform_source", "path", "noted_at")
LOOKED_AT = 50
"""Of a session's events so many are looked at for a job: whoever wanted observations had them from the first."""

_NOTE = (
    update(FILES)
    .where(*is_owned(FILES), FILES.c.session_id == bindparam("of_session"))
    .values(path=bindparam("now_path"), noted_at=bindparam("now_at"))
)
_OVER = (
    update(FILES)
    .where(*is_owned(FILES), FILES.c.session_id == bindparam("of_session"))
    .values(over_at=bindparam("now_at"))
)


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that has not ended; `path` is where its agent writes it down, if that is known."""

    scope: Scope
    session_id: str
    path: str | None
    is_over: bool


def note_file(conn: Connection, scope: Scope, session_id: str, platform: str, path: str, now: int) -> None:
    """Remember where a session is written down; what was remembered before is replaced."""
    row = (scope.team_id, scope.project_id, session_id, platform, path, now)
    if not dialect.insert_new(conn, FILES, NAMES, [row]):
        conn.execute(_NOTE, {**owner(scope), "of_session": session_id, "now_path": path, "now_at": now})


def note_end(conn: Connection, scope: Scope, session_id: str, now: int | None) -> bool:
    """Remember that an agent ended its session, or (None) that it goes on; False where it is written down nowhere."""
    return conn.execute(_OVER, {**owner(scope), "of_session": session_id, "now_at": now}).rowcount == 1


def is_over(conn: Connection, scope: Scope, session_id: str) -> bool:
    """Whether an agent ended its session, and its end is still to come here."""
    ended = select(FILES.c.session_id).where(
        *belongs(FILES, scope), FILES.c.session_id == session_id, FILES.c.over_at.is_not(None)
    )
    return conn.execute(ended).first() is not None


def open_sessions(conn: Connection, *, idle_since: int, over: bool, limit: int) -> list[OpenSession]:
    """Open sessions of all tenants: with `over` those that their agents ended, else also those that are idle."""
    ended = FILES.c.over_at.is_not(None)
    wanted = ended if over else or_(ended, SESSIONS.c.updated_at < idle_since)
    columns = (SESSIONS.c.team_id, SESSIONS.c.project_id, SESSIONS.c.id, FILES.c.path, FILES.c.over_at)
    joined = and_(FILES.c.session_id == SESSIONS.c.id, FILES.c.project_id == SESSIONS.c.project_id)
    found = (
        select(*columns)
        .select_from(SESSIONS.outerjoin(FILES, joined))
        .where(SESSIONS.c.ended_at.is_(None), wanted)
        .order_by(SESSIONS.c.started_at)
        .limit(limit)
    )
    return [OpenSession(Scope(row[0], row[1]), row[2], row[3], row[4] is not None) for row in conn.execute(found)]


def written_sessions(conn: Connection, *, limit: int) -> list[OpenSession]:
    """Open sessions that are written down somewhere, the latest first."""
    found = (
        select(FILES.c.team_id, FILES.c.project_id, FILES.c.session_id, FILES.c.path, FILES.c.over_at)
        .join(SESSIONS, and_(FILES.c.session_id == SESSIONS.c.id, FILES.c.project_id == SESSIONS.c.project_id))
        .where(SESSIONS.c.ended_at.is_(None))
        .order_by(FILES.c.noted_at.desc())
        .limit(limit)
    )
    return [OpenSession(Scope(row[0], row[1]), row[2], row[3], row[4] is not None) for row in conn.execute(found)]


def is_observed(conn: Connection, scope: Scope, session_id: str) -> bool:
    """Whether observations were wanted of a session: one of its first events has a job."""
    first = (
        select(agent_events.c.id)
        .where(*belongs(agent_events, scope), agent_events.c.session_id == session_id)
        .order_by(agent_events.c.seq)
        .limit(LOOKED_AT)
    )
    ids = conn.execute(first).scalars().all()
    owned = scope.team_id, scope.project_id
    jobs = [keys.job_id(JobKind.EVENT, *owned, "event", event_id) for event_id in ids]
    table = observation_generation_jobs
    return bool(conn.execute(select(exists().where(*belongs(table, scope), table.c.id.in_(jobs)))).scalar_one())
