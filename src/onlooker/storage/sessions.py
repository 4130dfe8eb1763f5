"""Sessions: opened by whatever names them first, locked by one name everywhere, and the keepers of their order."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

from sqlalchemy import bindparam, select, update

from onlooker.domain.errors import Conflict, NotFound
from onlooker.domain.models import NewSession, Scope, Session
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.tables import server_sessions
from onlooker.storage.tenancy import is_listed, is_owned, owner

SESSIONS = server_sessions
COLUMNS = [SESSIONS.c.metadata if f.name == "metadata_json" else SESSIONS.c[f.name] for f in fields(Session)]
IS_OWNED = is_owned(SESSIONS)

WRITTEN = (
    "id",
    "team_id",
    "project_id",
    "content_session_id",
    "external_session_id",
    "agent_id",
    "agent_type",
    "platform_source",
    "metadata",
    "started_at",
    "created_at",
    "updated_at",
)

_GET = select(*COLUMNS).where(*IS_OWNED, SESSIONS.c.id == bindparam("of_id"))
_BY_CONTENT = select(*COLUMNS).where(*IS_OWNED, SESSIONS.c.content_session_id == bindparam("named"))
_BY_EXTERNAL = select(*COLUMNS).where(*IS_OWNED, SESSIONS.c.external_session_id == bindparam("named"))
_IDS_BY_CONTENT = select(SESSIONS.c.content_session_id, SESSIONS.c.id).where(
    *IS_OWNED, dialect.among(SESSIONS.c.content_session_id, "named")
)
_LIST = (
    select(*COLUMNS)
    .where(*is_listed(SESSIONS))
    .order_by(SESSIONS.c.started_at.desc(), SESSIONS.c.id.desc())
    .limit(bindparam("most"))
    .offset(bindparam("skipped"))
)

_ADVANCE = (
    update(SESSIONS)
    .where(*IS_OWNED, dialect.among(SESSIONS.c.id, "of_ids"))
    .values(last_seq=SESSIONS.c.last_seq + bindparam("places"), updated_at=bindparam("now"))
    .returning(SESSIONS.c.id, SESSIONS.c.last_seq)
)


def session_lock(session_id: str) -> str:
    """The name under which a session is locked; see `dialect.lock_keys`."""
    return f"session:{session_id}"


def lock_for(conn: Connection, session_ids: Sequence[str | None], *, waits: bool) -> set[str | None]:
    """Lock the sessions of jobs until the transaction ends; those that are ours now, and None, which is no session.

    Unless it `waits` for whoever has one, that one is left out.
    """
    of_lock = {session_lock(session_id): session_id for session_id in session_ids if session_id is not None}
    if waits:
        dialect.lock_keys(conn, of_lock)
        return {None, *of_lock.values()}
    return {None, *(of_lock[key] for key in dialect.try_lock_keys(conn, of_lock))}


def open_session(conn: Connection, scope: Scope, new: NewSession, now: int) -> tuple[Session, bool]:
    """Open a session, or find the one that either of its names is known by; True when it is new.

    A known session stays as it is. A session with no name is always new.
    """
    if not dialect.insert_new(conn, SESSIONS, WRITTEN, [_row(scope, new, now)]):
        known = find_by_content(conn, scope, new.content_session_id) or _find_by_external(
            conn, scope, new.external_session_id
        )
        if known is not None:
            return known, False
        raise Conflict("the id of the new session is taken")
    return get(conn, scope, new.id), True


def open_by_content(conn: Connection, scope: Scope, named: Mapping[str, NewSession], now: int) -> dict[str, str]:
    """The ids of the sessions with these content ids; those that are not known are opened."""
    names = list(named)
    known = _ids_by_content(conn, scope, names)
    missing = sorted(name for name in names if name not in known)
    if missing:
        inserted = dialect.insert_new(conn, SESSIONS, WRITTEN, [_row(scope, named[name], now) for name in missing])
        if inserted == len(missing):
            known.update((name, named[name].id) for name in missing)
        else:
            known.update(_ids_by_content(conn, scope, missing))
    return known


def advance(conn: Connection, scope: Scope, counts: Mapping[str, int], now: int) -> dict[str, int]:
    """Give each of these sessions that many further places; the `seq` of its last one by session id.

    The sessions must be locked. A session that is not of this tenant is missing in the answer.
    """
    by_count: dict[int, list[str]] = {}
    for session_id, count in counts.items():
        by_count.setdefault(count, []).append(session_id)
    last: dict[str, int] = {}
    for places, session_ids in by_count.items():
        values = {**owner(scope), "of_ids": session_ids, "places": places, "now": now}
        last.update(dialect.fetch(conn, _ADVANCE, values))
    return last


def get(conn: Connection, scope: Scope, session_id: str) -> Session:
    """A session of this tenant. Raises `NotFound`."""
    row = conn.execute(_GET, {**owner(scope), "of_id": session_id}).one_or_none()
    if row is None:
        raise NotFound("no such session")
    return Session(*row)


def find(conn: Connection, scope: Scope, given: str) -> Session | None:
    """The session of this id, or else the one that the agent knows by it; None where there is neither."""
    row = conn.execute(_GET, {**owner(scope), "of_id": given}).one_or_none()
    return find_by_content(conn, scope, given) if row is None else Session(*row)


def find_by_content(conn: Connection, scope: Scope, content_session_id: str | None) -> Session | None:
    """The session that the agent knows by this id; None where there is none."""
    if content_session_id is None:
        return None
    row = conn.execute(_BY_CONTENT, {**owner(scope), "named": content_session_id}).one_or_none()
    return None if row is None else Session(*row)


def list_sessions(conn: Connection, scope: Scope, *, limit: int, offset: int = 0) -> list[Session]:
    """Sessions of this tenant, those that started last first."""
    rows = conn.execute(_LIST, {**owner(scope), "most": limit, "skipped": offset})
    return [Session(*row) for row in rows]


def _find_by_external(conn: Connection, scope: Scope, external_session_id: str | None) -> Session | None:
    if external_session_id is None:
        return None
    row = conn.execute(_BY_EXTERNAL, {**owner(scope), "named": external_session_id}).one_or_none()
    return None if row is None else Session(*row)


def _ids_by_content(conn: Connection, scope: Scope, names: Sequence[str]) -> dict[str, str]:
    return dict(dialect.fetch(conn, _IDS_BY_CONTENT, {**owner(scope), "named": list(names)}))


def _row(scope: Scope, new: NewSession, now: int) -> tuple[str | int | None, ...]:
    return (
        new.id,
        scope.team_id,
        scope.project_id,
        new.content_session_id,
        new.external_session_id,
        new.agent_id,
        new.agent_type,
        new.platform_source,
        new.metadata_json,
        new.started_at,
        now,
        now,
    )
