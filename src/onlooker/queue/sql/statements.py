"""The queue's SQL, written once for SQLite and Postgres.

How the table is read:

- `state` 0 waits, 1 is claimed, 2 is confirmed, 3 is dead-lettered. `seq` is the order.
- `head` is true for the oldest unfinished message of an exclusive lane and for every unfinished one of a shared lane:
  those that may be served. Without it, finding the lanes that have none in flight took 4 s at a million messages.
- `due` is 0 for what may be served at once, else the time (database clock, epoch ms) from which it may. A look turns
  what has come due to 0, so that a claim passes over no delayed message however many there are.
- `token` names the unit of work that last changed the row; of a claimed one it is the claim's, and proves it.

The conditions of partial indexes are literals here: a bound parameter would hide the index.
"""

from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Delete,
    Integer,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    false,
    func,
    literal_column,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from onlooker.storage.dialect import database_now, insert_into
from onlooker.storage.given import Given
from onlooker.storage.tables import messages

WAITING, CLAIMED, CONFIRMED, DEAD = range(4)

READY: Any = literal_column("messages.state = 0 AND messages.head AND messages.due = 0")
DELAYED: Any = literal_column("messages.state = 0 AND messages.due > 0")
LEASED: Any = literal_column("messages.state = 1")
FINISHED: Any = literal_column("messages.state >= 2")
UNFINISHED: Any = literal_column("messages.state < 2")
HEAD_OF_LANE: Any = literal_column("messages.head AND messages.exclusive")

NOW: Any = select(database_now()).scalar_subquery()
"""The database's clock, read once a statement; by itself it would be once a row."""

PORTION = 500
"""How many rows one sweep, promotion or purge changes at most: none holds up a claim for more than a few ms."""

CHANNEL = "onlooker_queue"


class Statements:
    """Every statement that the engine runs, built once for a kind of database."""

    def __init__(self, backend: str) -> None:
        self.rows = Given(
            backend,
            place=Integer(),
            lane=Text(),
            exclusive=Boolean(),
            id=Text(),
            type=Text(),
            tool_name=Text(),
            body=Text(),
            delay=BigInteger(),
            leads=Boolean(),
        )
        self.keys = Given(backend, lane=Text(), id=Text())
        self.held = Given(backend, seq=BigInteger(), token=Text())
        self.ends = Given(backend, seq=BigInteger(), token=Text(), state=Integer(), reason=Text())
        self.returns = Given(backend, seq=BigInteger(), token=Text(), delay=BigInteger())
        self.numbers = Given(backend, seq=BigInteger())
        self.lanes = Given(backend, lane=Text())
        self.holders = Given(backend, holder=Text())
        self.pulls = Given(backend, seq=BigInteger(), delay=BigInteger())

        self.put = self._put(backend)
        self.known = self._known()
        self.drop = delete(messages).where(messages.c.seq.in_(select(self.numbers.c.seq)))
        self.pull = self._pull()
        self.extend = self._extend()
        self.finish = self._finish()
        self.release = self._release()
        self.promote = self._promote()
        self.claim = _claim(select(messages.c.seq).where(READY))
        self.claim_these = _claim(select(messages.c.seq).where(READY, messages.c.seq.in_(select(self.numbers.c.seq))))
        self.heads = select(messages.c.seq, messages.c.lane).where(
            messages.c.lane.in_(select(self.lanes.c.lane)), HEAD_OF_LANE
        )
        self.ready_heads = self.heads.where(READY)
        self.ready_of_lane = (
            select(messages.c.seq, messages.c.lane)
            .where(messages.c.lane == bindparam("of_lane", type_=Text()), UNFINISHED, READY)
            .order_by(messages.c.lane, messages.c.seq)
            .limit(bindparam("count", type_=Integer()))
        )
        self.landed = self._landed()
        self.release_held_by = _release_where(messages.c.holder.in_(select(self.holders.c.holder)), LEASED)
        self.release_unknown = _release_where(
            messages.c.holder == bindparam("of_holder", type_=Text()),
            LEASED,
            messages.c.token != bindparam("unit", type_=Text()),
            tuple_(messages.c.seq, messages.c.token).not_in(select(self.held.c.seq, self.held.c.token)),
        )
        self.release_lane = _release_where(messages.c.lane == bindparam("of_lane", type_=Text()), LEASED)

    def _put(self, backend: str) -> ReturningInsert[Any]:
        """New rows at the end of their lanes; what is known already is left. `leads`: the lane's first in this call."""
        given = self.rows.c
        other = messages.alias("other")
        lane_is_idle = ~exists().where(other.c.lane == given.lane, literal_column("other.state < 2"))
        values = {
            "lane": given.lane,
            "exclusive": given.exclusive,
            "id": given.id,
            "type": given.type,
            "tool_name": given.tool_name,
            "body": given.body,
            "state": literal_column("0"),
            "head": case((given.exclusive, and_(given.leads, lane_is_idle)), else_=true()),
            "due": _due(given.delay),
            "attempt": literal_column("0"),
            "enqueued_at": NOW,
            "token": bindparam("unit", type_=Text()),
        }
        # SQLite takes ON CONFLICT after a SELECT for a join's ON, unless there is a WHERE.
        rows = select(*values.values()).where(literal_column("1 = 1")).order_by(given.place)
        put: ReturningInsert[Any] = (
            insert_into(messages, backend)
            .from_select(list(values), rows)
            .on_conflict_do_nothing(index_elements=["lane", "id"])
            .returning(messages.c.seq, messages.c.lane, messages.c.id, messages.c.head, messages.c.due)
        )
        return put

    def _known(self) -> Select[Any]:
        given = self.keys.c
        over = and_(FINISHED, messages.c.finished_at <= NOW - bindparam("retention", type_=BigInteger()))
        return select(
            messages.c.seq,
            messages.c.lane,
            messages.c.id,
            messages.c.exclusive,
            messages.c.state,
            over.label("forgotten"),
        ).join(self.keys.table, and_(messages.c.lane == given.lane, messages.c.id == given.id))

    def _pull(self) -> ReturningUpdate[Any]:
        """Bring forward the due time of these messages where it is later; it is never put back."""
        given = self.pulls.c
        return (
            update(messages)
            .values(due=_due(given.delay))
            .where(messages.c.seq == given.seq, DELAYED, messages.c.due > _due(given.delay))
            .returning(messages.c.seq, messages.c.head, messages.c.due)
        )

    def _extend(self) -> ReturningUpdate[Any]:
        return (
            update(messages)
            .values(lease_until=NOW + bindparam("lease", type_=BigInteger()))
            .where(messages.c.seq == self.held.c.seq, messages.c.token == self.held.c.token, LEASED)
            .returning(messages.c.seq)
        )

    def _finish(self) -> ReturningUpdate[Any]:
        """Confirm or dead-letter; a confirmed message leaves its id behind and nothing else."""
        given = self.ends.c
        return (
            update(messages)
            .values(
                state=given.state,
                head=false(),
                body=case((given.state == literal_column(str(DEAD)), messages.c.body), else_=""),
                token=bindparam("unit", type_=Text()),
                holder=None,
                lease_until=None,
                reason=given.reason,
                finished_at=NOW,
            )
            .where(messages.c.seq == given.seq, messages.c.token == given.token, LEASED)
            .returning(messages.c.seq, messages.c.lane, messages.c.exclusive)
        )

    def _release(self) -> ReturningUpdate[Any]:
        given = self.returns.c
        return (
            update(messages)
            .values(_waiting_again(_due(given.delay)))
            .where(messages.c.seq == given.seq, messages.c.token == given.token, LEASED)
            .returning(messages.c.seq, messages.c.due)
        )

    def _promote(self) -> ReturningUpdate[Any]:
        """Make the oldest unfinished message of each of these exclusive lanes its head."""
        other = messages.alias("other")
        oldest = (
            select(func.min(other.c.seq))
            .where(other.c.lane == self.lanes.c.lane, literal_column("other.state < 2"))
            .correlate(self.lanes.table)
            .scalar_subquery()
        )
        return (
            update(messages)
            .values(head=true())
            .where(
                messages.c.seq.in_(select(oldest).select_from(self.lanes.table)), literal_column("NOT messages.head")
            )
            .returning(messages.c.seq, messages.c.due)
        )

    def _landed(self) -> Select[Any]:
        """Rows that show that a unit was committed; waits for those that it may be committing."""
        given = self.numbers.c
        of_unit = messages.c.token == bindparam("unit", type_=Text())
        return (
            select(messages.c.seq, of_unit.label("is_last"))
            .where(messages.c.seq.in_(select(given.seq)))
            .with_for_update()
        )


def _due(delay: Any) -> Any:
    return case((delay > literal_column("0"), NOW + delay), else_=literal_column("0"))


def _waiting_again(due: Any) -> dict[str, Any]:
    return {
        "state": literal_column("0"),
        "token": bindparam("unit", type_=Text()),
        "holder": None,
        "lease_until": None,
        "due": due,
    }


def _claim(candidates: Select[Any]) -> ReturningUpdate[Any]:
    """Claim the oldest of these. The CTE keeps Postgres from running the limited query once a row."""
    picked = (
        candidates.order_by(messages.c.seq).limit(bindparam("count", type_=Integer())).with_for_update(skip_locked=True)
    ).cte("picked")
    return (
        update(messages)
        .values(
            state=literal_column("1"),
            token=bindparam("unit", type_=Text()),
            holder=bindparam("holder", type_=Text()),
            lease_until=NOW + bindparam("lease", type_=BigInteger()),
            attempt=messages.c.attempt + literal_column("1"),
        )
        .where(messages.c.seq.in_(select(picked.c.seq)))
        .returning(
            messages.c.seq,
            messages.c.lane,
            messages.c.exclusive,
            messages.c.id,
            messages.c.type,
            messages.c.tool_name,
            messages.c.body,
            messages.c.attempt,
        )
    )


def _release_where(*conditions: Any) -> Update:
    return update(messages).values(_waiting_again(literal_column("0"))).where(*conditions)


def _portion(of: Any, by: Any) -> Any:
    """The first rows of a kind that nobody else is changing."""
    return (
        select(messages.c.seq).where(of).order_by(by).limit(PORTION).with_for_update(skip_locked=True).scalar_subquery()
    )


NEXT_TIMES = select(
    database_now().label("now"),
    select(func.min(messages.c.due)).where(DELAYED).scalar_subquery().label("due"),
    select(func.min(messages.c.lease_until)).where(LEASED).scalar_subquery().label("lease"),
    select(messages.c.seq).where(READY).exists().label("is_ready"),
)
"""The clock, the next due time, the next end of a lease, and whether anything is ready: three looks into an index."""

PROMOTE_DUE = (
    update(messages)
    .values(due=literal_column("0"))
    .where(
        messages.c.seq.in_(
            _portion(and_(DELAYED, messages.c.due <= bindparam("now", type_=BigInteger())), messages.c.due)
        )
    )
)

SWEEP = _release_where(
    messages.c.seq.in_(
        _portion(and_(LEASED, messages.c.lease_until <= bindparam("now", type_=BigInteger())), messages.c.lease_until)
    )
)
"""Put back what dead holders held: it is its lane's head still, so it is served before anything younger."""


def _purge(state: int) -> Delete:
    is_state: Any = literal_column(f"messages.state = {state}")
    over = and_(FINISHED, is_state, messages.c.finished_at <= bindparam("before", type_=BigInteger()))
    return delete(messages).where(messages.c.seq.in_(_portion(over, messages.c.finished_at)))


PURGES = (_purge(CONFIRMED), _purge(DEAD))

HOLDERS = select(messages.c.holder).where(LEASED, messages.c.holder.is_not(None)).distinct()

CLEAR = delete(messages).where(messages.c.lane == bindparam("of_lane", type_=Text()), UNFINISHED)

PENDING = (
    select(func.count()).select_from(messages).where(messages.c.lane == bindparam("of_lane", type_=Text()), UNFINISHED)
)

PEEK = (
    select(messages.c.type, messages.c.tool_name)
    .where(messages.c.lane == bindparam("of_lane", type_=Text()), UNFINISHED)
    .order_by(messages.c.lane, messages.c.seq)
    .limit(bindparam("limit", type_=Integer()))
)


@cache
def statements_for(backend: str) -> Statements:
    """The statements for `sqlite` or `postgresql`."""
    return Statements(backend)
