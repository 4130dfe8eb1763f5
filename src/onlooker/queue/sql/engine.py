"""The queue engine `sql`, on SQLite and Postgres."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from typing import TypeVar

from sqlalchemy import make_url, select

from onlooker.domain.errors import ClaimLost, QueueUnavailable, StorageUnavailable
from onlooker.host import ProcessIdentity
from onlooker.queue.contract import (
    LEASE_MS,
    LOOK_MS,
    NOW,
    RETENTION_MS,
    Claim,
    Lane,
    Message,
    Pending,
    QueueDepth,
    QueueHealth,
)
from onlooker.queue.serving import serve_lane
from onlooker.queue.sql import census
from onlooker.queue.sql import statements as sql
from onlooker.queue.sql.calls import CALL_TIMEOUT_S, CLOSE_WITHIN_S, LARGEST_UNIT, Calls
from onlooker.queue.sql.unit import Finish, Held, Outcome, Put, Release, notify, perform
from onlooker.queue.text import require_storable
from onlooker.storage import dialect
from onlooker.storage.database import Connection, Database
from onlooker.storage.dialect import SQLITE
from onlooker.storage.tables import messages
from onlooker.telemetry import log

T = TypeVar("T")

HEALTH_TIMEOUT_S = 1.8
EPOCH_ON_SQLITE = "sqlite"
"""Only a power cut takes commits, and every process with them: each rings everything when it starts."""


class SqlQueue:
    """See `queue.contract.QueueEngine`. Used from one event loop; of one process there may be several.

    `lease_ms`, `retention_ms` and `look_ms` are for tests that cannot wait.
    """

    name = "sql"

    def __init__(
        self,
        database: Database,
        *,
        identity: ProcessIdentity,
        lease_ms: int = LEASE_MS,
        retention_ms: int = RETENTION_MS,
        look_ms: int = LOOK_MS,
    ) -> None:
        self._database = database
        self._holder = f"{identity}|{secrets.token_hex(4)}"
        self._released = False
        self._calls = Calls(
            database,
            holder=self._holder,
            lease_ms=lease_ms,
            retention_ms=retention_ms,
            look_ms=look_ms,
            describe=self._unavailable,
        )

    async def enqueue(
        self, lane: Lane, message: Message, *, delay_ms: int = NOW, replace_finished: bool = False
    ) -> bool:
        """See `QueueEngine.enqueue`."""
        return (await self._calls.put([_put(lane, message, delay_ms, replace=replace_finished)]))[0]

    async def enqueue_many(self, entries: Sequence[tuple[Lane, Message]], *, replace_finished: bool = False) -> int:
        """See `QueueEngine.enqueue_many`. A portion is all there or not at all, the whole is not."""
        put = 0
        puts = iter([_put(lane, message, NOW, replace=replace_finished) for lane, message in entries])
        while portion := list(islice(puts, LARGEST_UNIT)):
            put += sum(await self._calls.put(portion))
        return put

    def join(self) -> "SqlJoin | None":
        """See `JoinsTransactions.join`: on SQLite, where another transaction would only wait for this one.

        On Postgres the lanes' locks would be held for as long as the disk takes, and who confirms waits for them.
        """
        return SqlJoin(self._calls) if self._database.name == SQLITE and not self._calls.closed else None

    async def claim(self, *, wait_s: float, lanes: Sequence[Lane] | None = None) -> Claim | None:
        """See `QueueEngine.claim`."""
        found = await self._calls.claim(1, lanes, wait_s=wait_s)
        return found[0] if found else None

    async def claim_many(self, count: int, *, wait_s: float) -> list[Claim]:
        """See `QueueEngine.claim_many`."""
        return await self._calls.claim(count, None, wait_s=wait_s)

    def messages(
        self, lane: Lane, *, stop: asyncio.Event, idle_timeout_s: float, on_idle: Callable[[], None] | None = None
    ) -> AsyncIterator[Claim]:
        """See `QueueEngine.messages`."""
        return serve_lane(
            self, lane, is_closed=lambda: self._calls.closed, stop=stop, idle_timeout_s=idle_timeout_s, on_idle=on_idle
        )

    async def extend(self, claim: Claim) -> None:
        """See `QueueEngine.extend`."""
        if not await self._calls.change(Held.by(claim)):
            raise ClaimLost(f"the claim on {claim.message.id} is gone")

    async def confirm(self, claim: Claim) -> bool:
        """See `QueueEngine.confirm`."""
        return await self._calls.change(Finish(Held.by(claim), claim.lane))

    async def confirm_and_claim(self, claim: Claim, *, wait_s: float) -> tuple[bool, Claim | None]:
        """See `QueueEngine.confirm_and_claim`: one transaction."""
        confirmed, found = await self._calls.finish_and_claim(Finish(Held.by(claim), claim.lane), wait_s=wait_s)
        return confirmed, found[0] if found else None

    async def fail(self, claim: Claim, reason: str) -> bool:
        """See `QueueEngine.fail`."""
        return await self._calls.change(Finish(Held.by(claim), claim.lane, reason))

    async def release(self, claim: Claim, *, delay_ms: int = NOW) -> bool:
        """See `QueueEngine.release`."""
        return await self._calls.change(Release(Held.by(claim), claim.lane, delay_ms))

    async def reset(self, lane: Lane) -> int:
        """See `QueueEngine.reset`."""

        def release_all(conn: Connection) -> int:
            statement = sql.statements_for(conn.dialect.name).release_lane
            return conn.execute(statement, {"of_lane": lane.name, "unit": secrets.token_hex(8)}).rowcount

        return await self._change(release_all)

    async def clear(self, lane: Lane) -> int:
        """See `QueueEngine.clear`. A cleared id may be enqueued again."""

        def drop_all(conn: Connection) -> int:
            dialect.lock_keys(conn, [f"lane:{lane.name}"])
            return conn.execute(sql.CLEAR, {"of_lane": lane.name}).rowcount

        return await self._change(drop_all)

    async def pending(self, lane: Lane) -> int:
        """See `QueueEngine.pending`."""
        return await self._read(lambda conn: int(conn.execute(sql.PENDING, {"of_lane": lane.name}).scalar_one()))

    async def peek(self, lane: Lane, *, limit: int = 100) -> list[Pending]:
        """See `QueueEngine.peek`."""

        def look(conn: Connection) -> list[Pending]:
            return [Pending(*row) for row in conn.execute(sql.PEEK, {"of_lane": lane.name, "limit": limit})]

        return await self._read(look)

    async def depth(self) -> QueueDepth:
        """See `QueueEngine.depth`."""
        return await self._read(census.take)

    async def release_dead(self) -> int:
        """See `QueueEngine.release_dead`."""
        holders = await self._read(lambda conn: list(conn.execute(sql.HOLDERS).scalars()))
        dead = [holder for holder in holders if _is_known_dead(holder)]
        return await self._release_held_by(dead) if dead else 0

    async def epoch(self) -> str:
        """See `QueueEngine.epoch`. On Postgres a crash takes the last commits that did not wait for the disk."""
        self._check_open()
        if self._database.name == SQLITE:
            return EPOCH_ON_SQLITE
        return str(await self._read(dialect.recovered_at))

    async def health(self) -> QueueHealth:
        """See `QueueEngine.health`. A transaction that changes nothing tells what a read would not: disk and locks."""
        details: dict[str, str | int] = {"database": self._address()}
        if self._calls.closed:
            return QueueHealth(ok=False, engine=self.name, error="it is closed", details=details)
        asked = asyncio.create_task(self._database.tx(_touch, durable=False))
        done, _ = await asyncio.wait({asked}, timeout=HEALTH_TIMEOUT_S)
        if not done:
            asked.cancel()
            error: str | None = f"no answer within {HEALTH_TIMEOUT_S} s"
        else:
            failure = asked.exception()
            error = None if failure is None else str(failure) or type(failure).__name__
        return QueueHealth(ok=error is None, engine=self.name, error=error, details=details)

    async def require_healthy(self) -> None:
        """See `QueueEngine.require_healthy`."""
        health = await self.health()
        if not health.ok:
            raise self._unavailable(health.error or "unknown")

    async def close(self) -> None:
        """See `QueueEngine.close`."""
        await self._calls.close()
        if self._released:
            return
        self._released = True
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._release_held_by([self._holder], is_last=True)
        except (QueueUnavailable, TimeoutError) as error:
            log.warning("claims are kept until their leases end", reason=str(error) or "no answer")

    async def _release_held_by(self, holders: list[str], *, is_last: bool = False) -> int:
        def release(conn: Connection) -> int:
            statements = sql.statements_for(conn.dialect.name)
            given = statements.holders([(holder,) for holder in holders], unit=secrets.token_hex(8))
            return conn.execute(statements.release_held_by, given).rowcount

        return await self._change(release, is_last=is_last)

    async def _change(self, work: Callable[[Connection], int], *, is_last: bool = False) -> int:
        """A transaction of its own that may make something ready; its count.

        The last one of an engine waits for the disk: nobody would be there to see that a crash undid it.
        """

        def change(conn: Connection) -> int:
            count = work(conn)
            if count and not dialect.is_sqlite(conn):
                notify(conn, self._holder)
            return count

        count = await self._guarded(lambda: self._database.tx(change, durable=is_last), even_closed=is_last)
        if count:
            self._calls.wake()
        return count

    async def _read(self, work: Callable[[Connection], T]) -> T:
        return await self._guarded(lambda: self._database.read(work))

    async def _guarded(self, run: Callable[[], Awaitable[T]], *, even_closed: bool = False) -> T:
        """Ask the database within the time of a call, and say it as the queue's error where that fails."""
        if not even_closed:
            self._check_open()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await run()
        except TimeoutError as error:
            raise self._unavailable(f"no answer within {CALL_TIMEOUT_S:.0f} s") from error
        except StorageUnavailable as error:
            raise self._unavailable(str(error)) from error

    def _check_open(self) -> None:
        if self._calls.closed:
            raise self._unavailable("it is closed")

    def _unavailable(self, cause: str) -> QueueUnavailable:
        return QueueUnavailable(f"the queue in the database {self._address()} cannot be used: {cause}")

    def _address(self) -> str:
        url = make_url(self._database.url)
        return f"{url.host}:{url.port or 5432}/{url.database}" if url.host else f"{url.database}"


class SqlJoin:
    """See `queue.contract.Join`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._unit = calls.empty_unit()
        self._outcome = Outcome()

    def enqueue_many(self, conn: Connection, entries: Sequence[tuple[Lane, Message]]) -> None:
        """See `Join.enqueue_many`."""
        self._unit.puts = [_put(lane, message, NOW, replace=True) for lane, message in entries]
        self._outcome = perform(conn, self._unit)

    def committed(self) -> None:
        """See `Join.committed`."""
        self._calls.note(self._unit, self._outcome)
        if self._outcome.is_news:
            self._calls.wake()


def _put(lane: Lane, message: Message, delay_ms: int, *, replace: bool) -> Put:
    require_storable(lane, message)
    return Put(lane, message, delay_ms, replace)


def _touch(conn: Connection) -> None:
    conn.execute(select(messages.c.seq).limit(1)).first()


def _is_known_dead(holder: str) -> bool:
    process = ProcessIdentity.parse(holder.rpartition("|")[0])
    return process is not None and process.is_known_dead()
