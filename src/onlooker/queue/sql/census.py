"""How much there is in the queue: a fixed number of queries over indexes, whatever the number of lanes."""

from typing import Any

from sqlalchemy import Connection, Select, Text, case, func, literal_column, select

from onlooker.queue.contract import KindDepth, QueueDepth
from onlooker.queue.sql.statements import DELAYED, FINISHED, HEAD_OF_LANE, LEASED, READY, UNFINISHED
from onlooker.storage.dialect import database_now
from onlooker.storage.tables import messages

SESSIONS = ""
"""The kind that stands for all exclusive lanes together; no lane has an empty name."""

_KIND: Any = case((literal_column("messages.exclusive"), literal_column("''", Text)), else_=messages.c.lane).label(
    "kind"
)


def _by_kind(*conditions: Any) -> Select[Any]:
    return select(_KIND, func.count().label("total")).where(*conditions).group_by(_KIND)


_UNFINISHED = _by_kind(UNFINISHED)
_DELAYED = _by_kind(DELAYED, messages.c.due > database_now())
_CLAIMED = _by_kind(LEASED)
_DEAD = _by_kind(FINISHED, literal_column("messages.state = 3"))
_SESSION_LANES = select(func.count()).select_from(messages).where(HEAD_OF_LANE)


def _first(state: Any) -> Any:
    return select(func.min(messages.c.seq)).where(state).scalar_subquery()


_OLDEST = select(
    func.min(messages.c.enqueued_at).label("at"),
    database_now().label("now"),
).where(messages.c.seq.in_([_first(READY), _first(LEASED), _first(DELAYED)]))
"""The oldest unfinished message is a head, so it is the first that is ready, claimed or delayed."""


def take(conn: Connection) -> QueueDepth:
    """Count everything."""
    unfinished, delayed, claimed, dead = (
        {row.kind: int(row.total) for row in conn.execute(query)} for query in (_UNFINISHED, _DELAYED, _CLAIMED, _DEAD)
    )
    kinds = {}
    for kind in {*unfinished, *dead}:
        waiting = unfinished.get(kind, 0) - delayed.get(kind, 0) - claimed.get(kind, 0)
        kinds[kind] = KindDepth(waiting, delayed.get(kind, 0), claimed.get(kind, 0), dead.get(kind, 0))
    oldest = conn.execute(_OLDEST).one()
    return QueueDepth(
        kinds={kind: depth for kind, depth in sorted(kinds.items()) if kind != SESSIONS},
        sessions=kinds.get(SESSIONS, KindDepth()),
        lanes=conn.execute(_SESSION_LANES).scalar_one() + sum(kind != SESSIONS for kind in unfinished),
        oldest_ms=None if oldest.at is None else max(0, oldest.now - oldest.at),
    )
