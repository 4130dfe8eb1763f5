"""Events: how they are read. `recording` has how they are written."""

from collections.abc import Collection, Sequence

from sqlalchemy import bindparam, func, select

from onlooker.domain.errors import NotFound
from onlooker.domain.models import Event, Job, Scope
from onlooker.storage import dialect, turns
from onlooker.storage.database import Connection
from onlooker.storage.new_jobs import source_of, stored_jobs
from onlooker.storage.tables import agent_events
from onlooker.storage.tenancy import is_owned, owner

EVENTS = agent_events
IN_TABLE = {"payload_json": "payload", "metadata_json": "metadata"}
WRITTEN = tuple(IN_TABLE.get(name, name) for name in Event._fields)
COLUMNS = [EVENTS.c[name] for name in WRITTEN]
IS_OWNED = is_owned(EVENTS)

PAGE = 500
"""Events that are read at a time, where the caller does not say."""

_BY_IDS = select(*COLUMNS).where(*IS_OWNED, dialect.among(EVENTS.c.id, "of_ids"))
_BY_KEYS = select(*COLUMNS).where(*IS_OWNED, dialect.among(EVENTS.c.event_key, "of_keys"))
_IS_OF_BATCH = (*IS_OWNED, EVENTS.c.batch_id.is_not(None), EVENTS.c.batch_id == bindparam("of_batch"))
_OF_BATCH = select(*COLUMNS).where(*_IS_OF_BATCH).order_by(EVENTS.c.occurred_at, EVENTS.c.id)
_LENGTHS_OF_BATCH = select(func.length(EVENTS.c.payload)).where(*_IS_OF_BATCH)
_OF_SESSION = (
    select(*COLUMNS)
    .where(
        *IS_OWNED,
        EVENTS.c.session_id == bindparam("of_session"),
        EVENTS.c.seq > bindparam("after"),
        EVENTS.c.seq <= bindparam("until"),
    )
    .order_by(EVENTS.c.seq)
    .limit(bindparam("most"))
)

_SPOKEN = (
    select(*COLUMNS)
    .where(*IS_OWNED, EVENTS.c.session_id == bindparam("of_session"), dialect.among(EVENTS.c.event_type, "of_types"))
    .order_by(EVENTS.c.seq.desc())
    .limit(bindparam("most"))
)

LAST_SEQ = (1 << 63) - 1


def get_event(conn: Connection, scope: Scope, event_id: str) -> Event:
    """An event of this tenant. Raises `NotFound`."""
    found = events_by_ids(conn, scope, [event_id])
    if not found:
        raise NotFound("no such event")
    return found[0]


def events_by_ids(conn: Connection, scope: Scope, event_ids: Sequence[str]) -> list[Event]:
    """Those of these events that are stored and of this tenant, in the order of the ids."""
    rows = dialect.fetch(conn, _BY_IDS, {**owner(scope), "of_ids": list(event_ids)})
    found = {event.id: event for event in map(Event._make, rows)}
    return [found[event_id] for event_id in event_ids if event_id in found]


def events_by_keys(conn: Connection, scope: Scope, event_keys: list[str]) -> dict[str, Event]:
    """Those events that are stored under these keys, by key."""
    rows = dialect.fetch(conn, _BY_KEYS, {**owner(scope), "of_keys": event_keys})
    return {event.event_key: event for event in map(Event._make, rows)}


def events_of_batch(conn: Connection, scope: Scope, batch_id: str) -> list[Event]:
    """The events that share the job whose source this is, by time; 500 at most came in one request."""
    rows = conn.execute(_OF_BATCH, {**owner(scope), "of_batch": batch_id})
    return [Event._make(row) for row in rows]


def lengths_of_batch(conn: Connection, scope: Scope, batch_id: str) -> list[int]:
    """How long the payload of each of those events is as it is stored, in characters."""
    return list(conn.execute(_LENGTHS_OF_BATCH, {**owner(scope), "of_batch": batch_id}).scalars())


def events_of_turn(conn: Connection, scope: Scope, turn_id: str, *, limit: int = PAGE) -> list[Event]:
    """The last `limit` events of a turn in order, the one that ends it included; none for a turn that is not there."""
    turn = turns.get_turn(conn, scope, turn_id)
    if turn is None:
        return []
    first = max(turn.first_seq, turn.last_seq - limit)
    return events_of_session(conn, scope, turn.session_id, after_seq=first, until_seq=turn.last_seq, limit=limit)


def events_of_session(
    conn: Connection,
    scope: Scope,
    session_id: str,
    *,
    after_seq: int = 0,
    until_seq: int = LAST_SEQ,
    limit: int = PAGE,
) -> list[Event]:
    """A session's events in order, from behind `after_seq` up to `until_seq`; page on with the last one's `seq`."""
    values = {"of_session": session_id, "after": after_seq, "until": until_seq, "most": limit}
    return [Event._make(row) for row in conn.execute(_OF_SESSION, {**owner(scope), **values})]


def latest_of_types(
    conn: Connection, scope: Scope, session_id: str, types: Collection[str], *, limit: int = PAGE
) -> list[Event]:
    """The last `limit` events of a session that are of these types, in order."""
    values = {**owner(scope), "of_session": session_id, "of_types": sorted(types), "most": limit}
    return [Event(*row) for row in reversed(conn.execute(_SPOKEN, values).all())]


def job_of_event(conn: Connection, scope: Scope, event: Event) -> Job | None:
    """The job that makes observations of an event, alone or with others; None where it has none."""
    source = source_of(event, turns.turn_ended_by(conn, scope, event))
    return stored_jobs(conn, scope, [source.job_id(scope)]).get(source.job_id(scope))
