"""The calls of one process: those that wait at the same time are done in one transaction.

A unit runs at once when there is anything to do, and never waits for more; what is asked meanwhile is the next unit.
Callers who want a claim and find none stay here and are served by the unit that makes something ready, in the same
transaction. Nothing is kept for a lane, and nothing runs while nobody waits.
"""

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, TypeVar

from onlooker.domain.errors import QueueUnavailable, StorageUnavailable
from onlooker.queue.contract import Claim, Lane
from onlooker.queue.sql.statements import CHANNEL
from onlooker.queue.sql.unit import (
    SHORTEST_WAIT_MS,
    Finish,
    Held,
    Outcome,
    Put,
    Release,
    Unit,
    Want,
    glance,
    landed,
    perform,
)
from onlooker.storage.changes import watch_changes
from onlooker.storage.database import Connection, Database
from onlooker.storage.dialect import POSTGRES

T = TypeVar("T")

CALL_TIMEOUT_S = 10.0
"""A call that the database has not answered by then raises `QueueUnavailable`."""

TRY_TIMEOUT_S = 4.0
"""After which a transaction is given up and its outcome looked up: an answer was lost where the connection was not."""

LARGEST_UNIT = 500
"""Rows of one unit: on Postgres each lane of it is a lock, and the table of locks is finite."""

QUICK_FAILURE_S = 1.0
"""What fails sooner was a dead connection, and is tried once more."""

RETRY_EVERY_S = 0.1
"""Between attempts to learn whether a commit that was not answered was made, until the call's time is over."""

NOTICE_EVERY_S = 0.005
"""Notices of Postgres make commits wait for each other, so a process sends no more than this."""

CLOSE_WITHIN_S = 2.0
"""How long closing waits for a unit that is under way; its claims are served again when their leases end."""

PURGE_EVERY_S = 60.0
PURGE_AGAIN_S = 0.1

Asked = list[Put] | Held | Finish | Release


@dataclass(slots=True, eq=False)
class _Call:
    """One call that changes something, and who waits for its answer."""

    asked: Asked
    answer: asyncio.Future[Any]

    def lane_names(self) -> set[str]:
        """The lanes that may have something ready after it."""
        if isinstance(self.asked, list):
            return {put.lane.name for put in self.asked}
        return set() if isinstance(self.asked, Held) else {self.asked.lane.name}

    @property
    def size(self) -> int:
        return len(self.asked) if isinstance(self.asked, list) else 1


@dataclass(slots=True, eq=False)
class _Waiter:
    """One caller who wants claims."""

    want: Want
    answer: asyncio.Future[list[Claim]]
    until: float
    lane_names: frozenset[str] | None
    was_tried: bool = False
    in_unit: bool = False
    alarm: asyncio.TimerHandle | None = None

    def may_find(self, changed: AbstractSet[str]) -> bool:
        """Whether there may be something for it after these lanes have changed."""
        if not self.was_tried:
            return True
        return bool(changed) and (self.lane_names is None or not self.lane_names.isdisjoint(changed))


@dataclass(slots=True)
class _Batch:
    """What one unit serves."""

    calls: list[_Call] = field(default_factory=list)
    waiters: list[_Waiter] = field(default_factory=list)
    look: bool = False
    must_notify: bool = False

    def singles(self) -> list["_Batch"]:
        """Each call alone, for when one of them cannot be done and the others can."""
        return [_Batch(calls=[call]) for call in self.calls] + [_Batch(waiters=[waiter]) for waiter in self.waiters]


class Calls:
    """See the module. `describe` makes the error that callers see of a storage error."""

    def __init__(
        self,
        database: Database,
        *,
        holder: str,
        lease_ms: int,
        retention_ms: int,
        look_ms: int,
        describe: Callable[[str], QueueUnavailable],
    ) -> None:
        self._database = database
        self._holder = holder
        self._lease_ms = lease_ms
        self._retention_ms = retention_ms
        self._look_s = look_ms / 1000
        self._describe = describe
        self._calls: deque[_Call] = deque()
        self._waiters: dict[_Waiter, None] = {}
        # What callers of this process have claimed and not ended, and until when it may be theirs.
        self._claimed: dict[Held, float] = {}
        self._runner: asyncio.Task[None] | None = None
        self._changes = watch_changes(database, CHANNEL, own=holder, on_change=self._hear)
        self._looking: asyncio.Task[None] | None = None
        self._heard_more = False
        self._woken = False
        self._look_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._purge_at = 0.0
        self._notified_at = 0.0
        self._owes_notice = False
        self._notice: asyncio.TimerHandle | None = None
        self.closed = False

    async def put(self, puts: list[Put]) -> list[bool]:
        """Which of these were put."""
        answer: list[bool] = await self._ask(puts)
        return answer

    async def change(self, asked: Held | Finish | Release) -> bool:
        """Renew, finish or release a claim; whether it was held."""
        answer: bool = await self._ask(asked)
        return answer

    async def claim(self, count: int, lanes: Sequence[Lane] | None, *, wait_s: float) -> list[Claim]:
        """Up to `count` claims, or none after `wait_s`. A caller that is cancelled gets none: they are put back."""
        return await self._served(self._want(count, lanes, wait_s))

    async def finish_and_claim(self, finish: Finish, *, wait_s: float) -> tuple[bool, list[Claim]]:
        """Both in one unit."""
        call = self._enter(finish)
        call.answer.add_done_callback(_look_at)
        claims = await self._served(self._want(1, None, wait_s))
        finished: bool = await call.answer
        return finished, claims

    def wake(self) -> None:
        """Somebody may have made something ready: let those who wait look."""
        if self._waiters:
            self._woken = True
            self._run_soon()

    def _hear(self) -> None:
        """Another process changed something, perhaps in the queue."""
        if self._database.name == POSTGRES:
            self.wake()
        elif self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look_first(), name="onlooker-queue-look")
        else:
            self._heard_more = True

    async def _look_first(self) -> None:
        """On SQLite: wake those who wait where there is something for them. A read stands in no writer's way."""
        try:
            self._heard_more = True
            while self._heard_more and self._waiters:
                self._heard_more = False
                found = await self._database.read(glance)
                if found.is_ready:
                    self.wake()
                elif found.next_ms is not None:
                    at = asyncio.get_running_loop().time() + found.next_ms / 1000
                    self._look_at = min(self._look_at, at)
                    self._set_alarm()
        except StorageUnavailable:
            # Whoever is woken is told by the transaction that it asks for.
            self.wake()
        finally:
            self._looking = None

    async def close(self) -> None:
        """Finish what was asked, send those who wait away, watch no more. A second call does nothing."""
        self.closed = True
        for waiter in list(self._waiters):
            self._answer(waiter, error=self._describe("it is closed"))
        give_up_at = asyncio.get_running_loop().time() + CLOSE_WITHIN_S
        while busy := {task for task in (self._runner, self._looking) if task is not None}:
            left_s = give_up_at - asyncio.get_running_loop().time()
            _, late = await asyncio.wait(busy, timeout=max(0.0, left_s))
            for task in late:
                task.cancel()
            await asyncio.wait(busy)
        for timer in (self._alarm, self._notice):
            if timer is not None:
                timer.cancel()
        await self._changes.close()

    async def _ask(self, asked: Asked) -> Any:
        return await self._enter(asked).answer

    def _enter(self, asked: Asked) -> _Call:
        self._check_open()
        call = _Call(asked, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        self._run_soon()
        return call

    def _want(self, count: int, lanes: Sequence[Lane] | None, wait_s: float) -> _Waiter:
        self._check_open()
        loop = asyncio.get_running_loop()
        names = None if lanes is None else frozenset(lane.name for lane in lanes)
        waiter = _Waiter(Want(count, lanes), loop.create_future(), loop.time() + wait_s, names)
        self._waiters[waiter] = None
        self._run_soon()
        return waiter

    async def _served(self, waiter: _Waiter) -> list[Claim]:
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            self._waiters.pop(waiter, None)
            if waiter.answer.done() and not waiter.answer.cancelled() and waiter.answer.exception() is None:
                self._put_back(waiter.answer.result())
            raise
        finally:
            if waiter.alarm is not None:
                waiter.alarm.cancel()

    def _put_back(self, claims: list[Claim]) -> None:
        """Release claims that nobody is there for any more. Where it fails, the next look does."""
        for claim in claims:
            held = Held.by(claim)
            self._claimed.pop(held, None)
            answer = asyncio.get_running_loop().create_future()
            answer.add_done_callback(_look_at)
            self._calls.append(_Call(Release(held, claim.lane, 0), answer))
        self._run_soon()

    def _check_open(self) -> None:
        if self.closed:
            raise self._describe("it is closed")

    def _run_soon(self) -> None:
        if self._runner is None:
            self._runner = asyncio.get_running_loop().create_task(self._run(), name="onlooker-queue")

    async def _run(self) -> None:
        """Run units until there is nothing to do."""
        try:
            while (batch := self._next_batch()) is not None:
                await self._do(batch)
        finally:
            self._runner = None

    def _next_batch(self) -> _Batch | None:
        batch = _Batch(must_notify=self._owes_notice and self._may_notify())
        room = LARGEST_UNIT
        while self._calls and self._calls[0].size <= room:
            call = self._calls.popleft()
            if not call.answer.cancelled():
                batch.calls.append(call)
                room -= call.size
        changed = set().union(*(call.lane_names() for call in batch.calls)) if self._waiters else set()
        woken, self._woken = self._woken, False
        found = [waiter for waiter in self._waiters if woken or waiter.may_find(changed)]
        if self._waiters and (found or batch.calls) and asyncio.get_running_loop().time() >= self._look_at:
            # Whatever is going on: a look finds what nobody here was told of.
            batch.look = True
            found = list(self._waiters)
        batch.waiters = found[:LARGEST_UNIT]
        for waiter in batch.waiters:
            waiter.in_unit = True
        for waiter in found[LARGEST_UNIT:]:
            waiter.was_tried = False
        return batch if batch.calls or batch.waiters or batch.must_notify else None

    async def _do(self, batch: _Batch) -> None:
        """Run a batch and answer everybody in it."""
        unit = self._unit(batch)
        try:
            outcome = await self._transact(unit)
        except StorageUnavailable as error:
            self._fail(batch, self._describe(str(error)))
        except asyncio.CancelledError:
            self._fail(batch, self._describe("it was closed meanwhile"))
        except Exception as error:  # noqa: BLE001 - it is handed to the caller whose call it was
            if len(batch.calls) + len(batch.waiters) > 1:
                for single in batch.singles():
                    await self._do(single)
            else:
                self._fail(batch, error)
        else:
            self.note(unit, outcome)
            if not batch.calls and any(outcome.claims):
                self._changes.was_fruitful()
            self._answer_all(batch, outcome)
        self._set_alarm()

    def empty_unit(self) -> Unit:
        """A unit of this process that nothing has been asked of."""
        return Unit(
            token=secrets.token_hex(8),
            holder=self._holder,
            lease_ms=self._lease_ms,
            retention_ms=self._retention_ms,
            may_notify=self._may_notify(),
        )

    def _unit(self, batch: _Batch) -> Unit:
        now = asyncio.get_running_loop().time()
        unit = self.empty_unit()
        unit.wants = [waiter.want for waiter in batch.waiters]
        unit.look = batch.look
        if unit.look:
            self._claimed = {held: until for held, until in self._claimed.items() if until > now}
            unit.known = list(self._claimed)
        unit.purge = bool(batch.waiters) and now >= self._purge_at
        unit.must_notify = batch.must_notify
        for call in batch.calls:
            asked = call.asked
            if isinstance(asked, list):
                unit.puts += asked
            elif isinstance(asked, Held):
                unit.extends.append(asked)
            elif isinstance(asked, Finish):
                unit.finishes.append(asked)
            else:
                unit.releases.append(asked)
        return unit

    async def _transact(self, unit: Unit) -> Outcome:
        """Run a unit. Where it may have been committed without an answer, that is looked up before it is run again."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + CALL_TIMEOUT_S
        made: list[Outcome] = []

        def work(conn: Connection) -> Outcome:
            if made and landed(conn, unit, made[0]):
                return made[0]
            made[:] = [perform(conn, unit)]
            return made[0]

        was_retried = False
        while True:
            began_at = loop.time()
            try:
                async with asyncio.timeout_at(min(give_up_at, began_at + TRY_TIMEOUT_S)):
                    return await self._database.tx(work, durable=False, urgent=bool(unit.puts))
            except TimeoutError as error:
                failure = StorageUnavailable(f"no answer within {CALL_TIMEOUT_S:.0f} s", outcome_unknown=True)
                failure.__cause__ = error
            except StorageUnavailable as error:
                failure = error
            now = loop.time()
            is_worth_it = failure.outcome_unknown or (not was_retried and now - began_at < QUICK_FAILURE_S)
            if not is_worth_it or now + RETRY_EVERY_S >= give_up_at:
                raise failure
            await asyncio.sleep(RETRY_EVERY_S if was_retried else 0)
            was_retried = True

    def note(self, unit: Unit, outcome: Outcome) -> None:
        """Remember when to look, to purge and to notify."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        # A claim that finds too little looks too, for what came due alone: that puts off nothing.
        if unit.look:
            self._look_at = now + self._look_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads processes, no secret
        if outcome.next_ms is not None:
            self._look_at = min(self._look_at, now + outcome.next_ms / 1000)
        delays = [put.delay_ms for put in unit.puts] + [release.delay_ms for release in unit.releases]
        if soonest := min(filter(None, delays), default=None):
            self._look_at = min(self._look_at, now + soonest / 1000)
        if unit.purge:
            self._purge_at = now + (PURGE_EVERY_S if outcome.purged_all else PURGE_AGAIN_S)
        if outcome.notified:
            self._notified_at = now
            self._owes_notice = False
        elif outcome.is_news and self._database.name == POSTGRES and not self._owes_notice:
            self._owes_notice = True
            self._notice = loop.call_later(NOTICE_EVERY_S, self._run_soon)

    def _may_notify(self) -> bool:
        return asyncio.get_running_loop().time() >= self._notified_at + NOTICE_EVERY_S

    def _answer_all(self, batch: _Batch, outcome: Outcome) -> None:
        puts, extended = iter(outcome.puts), iter(outcome.extended)
        finished, released = iter(outcome.finished), iter(outcome.released)
        for call in batch.calls:
            asked = call.asked
            answer: Any
            if isinstance(asked, list):
                answer = [next(puts) for _ in asked]
            elif isinstance(asked, Held):
                answer = next(extended)
                if answer:
                    self._holds(asked)
            else:
                answer = next(finished if isinstance(asked, Finish) else released)
                self._claimed.pop(asked.held, None)
            if not call.answer.done():
                call.answer.set_result(answer)
        for waiter, claims in zip(batch.waiters, outcome.claims, strict=True):
            self._serve(waiter, claims)

    def _serve(self, waiter: _Waiter, claims: list[Claim]) -> None:
        """Give a caller its claims; one that got none waits on, until its time is over."""
        waiter.in_unit = False
        waiter.was_tried = True
        for claim in claims:
            self._holds(Held.by(claim))
        if waiter.answer.done():
            self._waiters.pop(waiter, None)
            self._put_back(claims)
        elif claims or asyncio.get_running_loop().time() >= waiter.until:
            self._answer(waiter, claims)
        elif waiter.alarm is None:
            waiter.alarm = asyncio.get_running_loop().call_at(waiter.until, self._expire, waiter)

    def _holds(self, held: Held) -> None:
        """A claim is ours from now on, for as long as its lease at most."""
        self._claimed[held] = asyncio.get_running_loop().time() + self._lease_ms / 1000

    def _expire(self, waiter: _Waiter) -> None:
        if not waiter.in_unit:
            self._answer(waiter, [])

    def _fail(self, batch: _Batch, error: Exception) -> None:
        for call in batch.calls:
            if not call.answer.done():
                call.answer.set_exception(error)
        for waiter in batch.waiters:
            waiter.in_unit = False
            self._answer(waiter, error=error)

    def _answer(self, waiter: _Waiter, claims: Sequence[Claim] = (), *, error: Exception | None = None) -> None:
        self._waiters.pop(waiter, None)
        if waiter.answer.done():
            return
        if error is None:
            waiter.answer.set_result(list(claims))
        else:
            waiter.answer.set_exception(error)

    def _set_alarm(self) -> None:
        """While somebody waits: watch for changes, and look again when the next thing is due."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._waiters:
            self._changes.stop()
        elif not self.closed:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(max(self._look_at, loop.time() + SHORTEST_WAIT_MS / 1000), self._come_due)
            self._changes.start()

    def _come_due(self) -> None:
        """It is time to look. uvloop's timers are up to a millisecond early, and by then it would not seem so."""
        self._look_at = asyncio.get_running_loop().time()
        self.wake()


def _look_at(answer: asyncio.Future[Any]) -> None:
    """Tell the event loop that an error that nobody waits for is no oversight."""
    if not answer.cancelled():
        answer.exception()
