"""A unit of work: what the calls of one process asked for at the same time, done in one transaction.

Each kind of call is a few statements for all of its kind. Order within a unit: enqueue, extend, finish, release,
then the lanes' heads, then claim: a claim sees what the others made ready.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import Connection, func, select

from onlooker.queue.contract import Claim, Lane, Message
from onlooker.queue.sql import statements as sql
from onlooker.queue.sql.statements import Statements
from onlooker.storage import dialect

CLAIM_ATTEMPTS = 3
"""How often the heads of given lanes are looked up again when other processes took them in between."""

SHORTEST_WAIT_MS = 20
"""For what is due but was being changed by somebody else."""


_New = tuple[int, bool, int]
"""Of a message that was put: its `seq`, whether it is its lane's head, and from when it may be served."""


@dataclass(slots=True)
class Put:
    """One message to enqueue."""

    lane: Lane
    message: Message
    delay_ms: int
    replace: bool


@dataclass(slots=True, frozen=True)
class Held:
    """A claim as the table knows it: a row and the token that proves the claim."""

    seq: int
    token: str

    @classmethod
    def by(cls, claim: Claim) -> "Held":
        """The row of a claim. A token that no SQL engine gave is a row that does not exist."""
        seq, _, token = claim.token.partition(".")
        return cls(int(seq), token) if seq.isascii() and seq.isdecimal() and len(seq) < 19 else cls(0, "")


@dataclass(slots=True)
class Finish:
    """One claim to confirm, or with a reason to dead-letter."""

    held: Held
    lane: Lane
    reason: str | None = None


@dataclass(slots=True)
class Release:
    """One claim to put back."""

    held: Held
    lane: Lane
    delay_ms: int


@dataclass(slots=True)
class Want:
    """Claims that one caller wants: of these lanes, or of any."""

    count: int
    lanes: Sequence[Lane] | None


@dataclass(slots=True)
class Unit:
    """What one transaction is to do. Its token names it in every row that it changes."""

    token: str
    holder: str
    lease_ms: int
    retention_ms: int
    puts: list[Put] = field(default_factory=list)
    extends: list[Held] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    wants: list[Want] = field(default_factory=list)
    look: bool = False
    known: Sequence[Held] = ()
    """The claims that this process has, for a look to tell them from those that it only seems to have."""
    purge: bool = False
    may_notify: bool = True
    must_notify: bool = False

    def lanes_to_lock(self) -> list[str]:
        """Where a message is added or finished, the next head depends on it: one at a time."""
        lanes = {put.lane.name for put in self.puts}
        lanes.update(finish.lane.name for finish in self.finishes if finish.lane.exclusive)
        return [f"lane:{name}" for name in lanes]


@dataclass(slots=True)
class Outcome:
    """What a unit did, in the order of what it was asked.

    `next_ms` is the time until something comes due or a lease ends (None: nothing will), where a look was taken.
    `ready` is how many messages the unit made ready and did not claim, `delayed` whether any will be ready later.
    """

    puts: list[bool] = field(default_factory=list)
    extended: list[bool] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    released: list[bool] = field(default_factory=list)
    claims: list[list[Claim]] = field(default_factory=list)
    inserted: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    ready: int = 0
    delayed: bool = False
    next_ms: int | None = None
    purged_all: bool = True
    notified: bool = False

    @property
    def is_news(self) -> bool:
        """Whether other processes may have something to do now, or a time to wait for."""
        return self.ready > 0 or self.delayed


def perform(conn: Connection, unit: Unit) -> Outcome:
    """Do a unit's work in the transaction that is open."""
    work = _Work(conn, unit)
    dialect.lock_keys(conn, unit.lanes_to_lock())
    if unit.puts:
        work.put()
    if unit.extends:
        work.extend()
    if unit.finishes:
        work.finish()
    if unit.releases:
        work.release()
    if work.lanes_without_head:
        work.promote()
    if unit.look:
        work.release_unknown()
        work.look()
    if unit.wants:
        work.claim()
    if unit.purge:
        work.purge()
    work.notify()
    return work.outcome


@dataclass(slots=True, frozen=True)
class Glance:
    """Whether a claim would find something, and if not when it may (None: nothing is known to come)."""

    is_ready: bool
    next_ms: int | None


def glance(conn: Connection) -> Glance:
    """Look, and change nothing."""
    times = conn.execute(sql.NEXT_TIMES).one()
    soonest = min((at for at in (times.due, times.lease) if at is not None), default=None)
    if times.is_ready or (soonest is not None and soonest <= times.now):
        return Glance(is_ready=True, next_ms=None)
    return Glance(is_ready=False, next_ms=None if soonest is None else soonest - times.now)


def landed(conn: Connection, unit: Unit, outcome: Outcome) -> bool:
    """Whether a unit whose commit was not answered is committed; waits while the database is still at it.

    A row that it inserted proves it, whatever happened to the row since; and so does any row that it was the last to
    change. A released message that others have claimed meanwhile proves nothing: then the unit is run again, and
    does no harm.
    """
    dialect.lock_keys(conn, unit.lanes_to_lock())
    statements = sql.statements_for(conn.dialect.name)
    touched = [(seq,) for seq in sorted({*outcome.inserted, *outcome.changed})]
    if not touched:
        return False
    rows = conn.execute(statements.landed, statements.numbers(touched, unit=unit.token)).all()
    inserted = set(outcome.inserted)
    return any(row.is_last or row.seq in inserted for row in rows)


class _Work:
    """One run of a unit."""

    def __init__(self, conn: Connection, unit: Unit) -> None:
        self.conn = conn
        self.unit = unit
        self.outcome = Outcome()
        self.statements: Statements = sql.statements_for(conn.dialect.name)
        self.lanes_without_head: set[str] = set()
        self.contended = False

    def put(self) -> None:
        """Enqueue. Of several with one id in one unit the first is tried first, then the next as if it came later."""
        self.outcome.puts = [False] * len(self.unit.puts)
        places = list(range(len(self.unit.puts)))
        while places:
            first_of_key: dict[tuple[str, str], int] = {}
            again: list[int] = []
            for place in places:
                put = self.unit.puts[place]
                if first_of_key.setdefault((put.lane.name, put.message.id), place) != place:
                    again.append(place)
            self._put_distinct(first_of_key)
            places = again

    def _put_distinct(self, places: dict[tuple[str, str], int]) -> None:
        inserted = self._insert(places)
        if len(inserted) < len(places):
            inserted = self._put_known(places, inserted)
        for key, (seq, head, due) in inserted.items():
            self.outcome.puts[places[key]] = True
            self.outcome.inserted.append(seq)
            self.outcome.ready += bool(head) and due == 0
            self.outcome.delayed |= due > 0

    def _insert(self, places: dict[tuple[str, str], int]) -> dict[tuple[str, str], _New]:
        """Put those at the end of their lanes that are not known; what was put by key."""
        led: set[str] = set()
        rows = []
        for place in places.values():
            put = self.unit.puts[place]
            lane, message = put.lane, put.message
            leads = lane.name not in led
            led.add(lane.name)
            content = (message.id, message.type, message.tool_name, message.body)
            rows.append((place, lane.name, lane.exclusive, *content, put.delay_ms, leads))
        given = self.statements.rows(rows, unit=self.unit.token)
        found = dialect.fetch(self.conn, self.statements.put, given)
        return {(lane, message_id): (seq, head, due) for seq, lane, message_id, head, due in found}

    def _put_known(
        self, places: dict[tuple[str, str], int], inserted: dict[tuple[str, str], _New]
    ) -> dict[tuple[str, str], _New]:
        """Deal with ids that were there: pull what waits forward, replace what is finished; the new rows by key."""
        missing = [key for key in places if key not in inserted]
        given = self.statements.keys(missing, retention=self.unit.retention_ms)
        replaced: list[int] = []
        pulled: list[tuple[int, str, int]] = []
        refused = set(missing)
        for seq, lane, message_id, is_exclusive, state, is_forgotten in dialect.fetch(
            self.conn, self.statements.known, given
        ):
            put = self.unit.puts[places[lane, message_id]]
            if is_exclusive:
                self.lanes_without_head.add(lane)
            if state == sql.WAITING:
                pulled.append((seq, lane, put.delay_ms))
            elif state >= sql.CONFIRMED and (put.replace or is_forgotten):
                replaced.append(seq)
                refused.remove((lane, message_id))
                pulled.append((seq, lane, put.delay_ms))
        if replaced:
            # All are put once more, so that the order among them is that of the call.
            gone = [(seq,) for seq in (*replaced, *(seq for seq, _, _ in inserted.values()))]
            self.conn.execute(self.statements.drop, self.statements.numbers(gone))
            inserted = self._insert({key: place for key, place in places.items() if key not in refused})
        if pulled:
            self._pull(pulled)
        return inserted

    def _pull(self, pulled: list[tuple[int, str, int]]) -> None:
        """Pull forward the due times of these waiting messages, and those of their lanes' delayed heads."""
        soonest: dict[str, int] = {}
        for _, lane, delay in pulled:
            soonest[lane] = min(delay, soonest.get(lane, delay))
        delays = {seq: delay for seq, _, delay in pulled}
        lanes = self.statements.lanes([(lane,) for lane in soonest])
        for seq, lane in dialect.fetch(self.conn, self.statements.heads, lanes):
            delays[seq] = min(soonest[lane], delays.get(seq, soonest[lane]))
        given = self.statements.pulls(sorted(delays.items()))
        for _, head, due in dialect.fetch(self.conn, self.statements.pull, given):
            self.outcome.ready += bool(head) and due == 0
            self.outcome.delayed |= due > 0

    def extend(self) -> None:
        """Renew leases from now."""
        held = sorted({(held.seq, held.token) for held in self.unit.extends})
        given = self.statements.held(held, lease=self.unit.lease_ms)
        renewed = {row[0] for row in dialect.fetch(self.conn, self.statements.extend, given)}
        self.outcome.extended = [held.seq in renewed for held in self.unit.extends]

    def finish(self) -> None:
        """Confirm and dead-letter. Of two that name one claim, the first does it."""
        first: dict[Held, Finish] = {}
        for finish in self.unit.finishes:
            first.setdefault(finish.held, finish)
        rows = [
            (held.seq, held.token, sql.CONFIRMED if finish.reason is None else sql.DEAD, finish.reason)
            for held, finish in sorted(first.items(), key=lambda item: (item[0].seq, item[0].token))
        ]
        done = dialect.fetch(self.conn, self.statements.finish, self.statements.ends(rows, unit=self.unit.token))
        ended = {seq for seq, _, _ in done}
        self.outcome.changed += ended
        self.lanes_without_head.update(lane for _, lane, is_exclusive in done if is_exclusive)
        for finish in self.unit.finishes:
            # A row has one claim at a time, so that only one of several tokens for it can have been right.
            done_by_this = finish.held.seq in ended and first[finish.held] is finish
            self.outcome.finished.append(done_by_this)

    def release(self) -> None:
        """Put back. A released message is its lane's head still."""
        first: dict[Held, Release] = {}
        for release in self.unit.releases:
            first.setdefault(release.held, release)
        rows = sorted((held.seq, held.token, release.delay_ms) for held, release in first.items())
        given = self.statements.returns(rows, unit=self.unit.token)
        back: dict[int, int] = dict(dialect.fetch(self.conn, self.statements.release, given))
        self.outcome.changed += back
        self.outcome.ready += sum(due == 0 for due in back.values())
        self.outcome.delayed |= any(due > 0 for due in back.values())
        self.outcome.released = [
            release.held.seq in back and first[release.held] is release for release in self.unit.releases
        ]

    def promote(self) -> None:
        """Give each lane that lost its head the next one."""
        lanes = [(lane,) for lane in sorted(self.lanes_without_head)]
        for _, due in dialect.fetch(self.conn, self.statements.promote, self.statements.lanes(lanes)):
            self.outcome.ready += due == 0
            self.outcome.delayed |= due > 0

    def release_unknown(self) -> None:
        """Put back what the table says is ours and nobody here has.

        A crash of Postgres undoes the last commits of the queue, which do not wait for the disk: confirmations too,
        whose lanes would stand still until the lease ends. Nor does anybody have what a unit claimed that was
        committed and never answered.
        """
        known = [(held.seq, held.token) for held in self.unit.known] or [(0, "")]
        given = self.statements.held(known, of_holder=self.unit.holder, unit=self.unit.token)
        self.outcome.ready += self.conn.execute(self.statements.release_unknown, given).rowcount

    def look(self) -> int:
        """Make ready what has come due, take back what dead holders had; how many. Tells when to look again."""
        moved = 0
        times = self.conn.execute(sql.NEXT_TIMES).one()
        if times.due is not None and times.due <= times.now:
            moved += self.conn.execute(sql.PROMOTE_DUE, {"now": times.now}).rowcount
        if times.lease is not None and times.lease <= times.now:
            moved += self.conn.execute(sql.SWEEP, {"now": times.now, "unit": self.unit.token}).rowcount
        if moved:
            times = self.conn.execute(sql.NEXT_TIMES).one()
        soonest = min((at for at in (times.due, times.lease) if at is not None), default=None)
        self.outcome.next_ms = None if soonest is None else max(SHORTEST_WAIT_MS, soonest - times.now)
        self.outcome.ready += moved
        return moved

    def claim(self) -> None:
        """Serve those who want claims; where there is too little, look for what has come due and try again."""
        claims: list[list[Claim]] = [[] for _ in self.unit.wants]
        self._claim_into(claims)
        if not self.unit.look and not all(claims) and self.look():
            self._claim_into(claims)
        if self.contended:
            self.outcome.next_ms = SHORTEST_WAIT_MS
        self.outcome.claims = claims
        self.outcome.ready -= sum(map(len, claims))

    def _claim_into(self, claims: list[list[Claim]]) -> None:
        wants = self.unit.wants
        named = [place for place, want in enumerate(wants) if want.lanes is not None and not claims[place]]
        if named:
            self._claim_of_lanes(claims, named)
        anywhere = [place for place, want in enumerate(wants) if want.lanes is None]
        missing = sum(wants[place].count - len(claims[place]) for place in anywhere)
        if missing:
            found = self._take(self.statements.claim, {"count": missing})
            _share(found, claims, anywhere, wants)

    def _claim_of_lanes(self, claims: list[list[Claim]], named: list[int]) -> None:
        """Choose for each caller, first come first served, the oldest message that its lanes may serve."""
        for _ in range(CLAIM_ATTEMPTS):
            lanes = {lane.name: lane for place in named for lane in self.unit.wants[place].lanes or ()}
            candidates = self._candidates(lanes.values(), len(named))
            chosen: dict[int, int] = {}
            for place in named:
                mine = {lane.name for lane in self.unit.wants[place].lanes or ()}
                seq = min((seq for seq, lane in candidates.items() if lane in mine), default=None)
                if seq is not None:
                    chosen[seq] = place
                    del candidates[seq]
            if not chosen:
                return
            wanted = self.statements.numbers([(seq,) for seq in sorted(chosen)], count=len(chosen))
            for seq, claim in self._take(self.statements.claim_these, wanted):
                claims[chosen[seq]].append(claim)
            named = [place for place in named if not claims[place]]
            if not named:
                return
        self.contended = True

    def _candidates(self, lanes: Iterable[Lane], count: int) -> dict[int, str]:
        """What may be served of these lanes: the heads of exclusive ones, up to `count` of each shared one."""
        exclusive = [(lane.name,) for lane in lanes if lane.exclusive]
        found: dict[int, str] = {}
        if exclusive:
            rows = self.conn.execute(self.statements.ready_heads, self.statements.lanes(exclusive))
            found.update((row.seq, row.lane) for row in rows)
        for lane in lanes:
            if not lane.exclusive:
                rows = self.conn.execute(self.statements.ready_of_lane, {"of_lane": lane.name, "count": count})
                found.update((row.seq, row.lane) for row in rows)
        return found

    def _take(self, statement: Any, parameters: dict[str, Any]) -> list[tuple[int, Claim]]:
        """Run a claim; what it got, in order."""
        unit = self.unit
        given = {**parameters, "unit": unit.token, "holder": unit.holder, "lease": unit.lease_ms}
        found = []
        for seq, lane, exclusive, message_id, kind, tool_name, body, attempt in dialect.fetch(
            self.conn, statement, given
        ):
            claim = Claim(
                Lane(lane, bool(exclusive)), Message(message_id, kind, tool_name, body), f"{seq}.{unit.token}", attempt
            )
            found.append((seq, claim))
        found.sort(key=lambda pair: pair[0])
        self.outcome.changed += [seq for seq, _ in found]
        return found

    def purge(self) -> None:
        """Forget a portion of what was finished before the retention."""
        before = dialect.read_clock(self.conn) - self.unit.retention_ms
        gone = [self.conn.execute(purge, {"before": before}).rowcount for purge in sql.PURGES]
        self.outcome.purged_all = max(gone) < sql.PORTION

    def notify(self) -> None:
        """Wake the processes that listen. SQLite has nobody who listens."""
        news = self.unit.may_notify and self.outcome.is_news
        if (news or self.unit.must_notify) and not dialect.is_sqlite(self.conn):
            notify(self.conn, self.unit.holder)
            self.outcome.notified = True


def notify(conn: Connection, payload: str) -> None:
    """Tell the processes that listen that there may be something to do, once this is committed."""
    conn.execute(select(func.pg_notify(sql.CHANNEL, payload)))


def _share(found: list[tuple[int, Claim]], claims: list[list[Claim]], places: list[int], wants: list[Want]) -> None:
    """One for each who has none, in order of asking, then the rest to those who want more."""
    given = (claim for _, claim in found)
    for place in places:
        if not claims[place]:
            claims[place] += islice(given, 1)
    for place in places:
        claims[place] += islice(given, wants[place].count - len(claims[place]))
