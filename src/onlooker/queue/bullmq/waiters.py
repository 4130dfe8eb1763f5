"""Callers who want claims, and what wakes them.

Who comes in the same turn of the event loop asks in the same call. Who finds nothing stays here. One connection per
process blocks on the markers that Redis is given when something becomes ready, whatever the number of sessions; a timer
looks when the next thing comes due, and every `look_ms` in any case, for the marker that a process took which then died
is gone.
"""

import asyncio
import contextlib
import random
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from onlooker.domain.errors import QueueUnavailable
from onlooker.queue.bullmq import names
from onlooker.queue.bullmq.address import Address
from onlooker.queue.bullmq.calls import Calls, Ending, Taking
from onlooker.queue.bullmq.joint import Gathering
from onlooker.queue.bullmq.link import ConnectionLost, Link, NotConnected, Refused, Wire, is_of_call
from onlooker.queue.contract import Claim, Lane

T = TypeVar("T")

BLOCK_S = 5
"""How long Redis is asked to wait for a marker."""

LATE_S = 3.0
"""How much longer its answer may take before the connection is given up."""

WAITED_MS = 3 * BLOCK_S * 1000
"""For how long a lane that somebody waits for alone gets a marker of its own; renewed while they wait."""

LARGEST_BATCH = 50
"""Claims of one call: a script has Redis to itself."""

END_WITHIN_S = 1.0
"""How long calls that are under way when the engine is closed may take; what they claim is released after them."""

SHORTEST_WAIT_S = 0.001
UNBLOCK_EVERY_S = 0.01


@dataclass(slots=True, eq=False)
class _Waiter:
    """One caller who wants claims until then: of any lane, or of these (their names on the wire).

    `answer` has the claims, and whether what was to be confirmed first was held.
    """

    count: int
    lanes: tuple[str, ...] | None
    until: float
    confirming: Ending | None
    answer: asyncio.Future[tuple[list[Claim], bool]]
    confirmed: bool = False
    alarm: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _Round(Taking):
    """One call: for several callers of any lane, for one of certain lanes, or for nobody."""

    owner: "Waiters"
    waiters: list[_Waiter]
    began_at: float
    brought: int = 0
    failure: Exception | None = None
    is_over: bool = False
    ended: asyncio.Future[None] | None = None

    def take(self, claims: list[Claim], next_ms: int | None, confirmed: Sequence[bool | QueueUnavailable]) -> None:
        self.owner.take(self, claims, next_ms, confirmed)

    def give_up(self, error: Exception) -> None:
        self.owner.give_up(self, error)

    def end(self) -> asyncio.Future[None]:
        """Done when its callers were told."""
        if self.ended is None:
            self.ended = asyncio.get_running_loop().create_future()
            if self.is_over:
                self.ended.set_result(None)
        return self.ended


class Waiters:
    """See the module. `kinds` are the wire names of the shared lanes to which others may add."""

    def __init__(self, address: Address, calls: Calls, *, kinds: Sequence[str], look_ms: int) -> None:
        self._calls = calls
        self._kinds = dict.fromkeys(kinds)
        self._look_s = look_ms / 1000
        self._markers = Link(address, self._prepare)
        self._client_id = 0
        self._arriving: Gathering[_Waiter] = Gathering(self._arrive)
        self._rounds: set[_Round] = set()
        self._waiters: dict[_Waiter, None] = {}
        self._listening: asyncio.Task[None] | None = None
        self._blocked_on: tuple[str, ...] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._was_woken = False
        self._notices: set[str] = set()
        self._look_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._returning: set[asyncio.Future[None]] = set()
        self.closed = False

    async def claim(
        self, count: int, lanes: Sequence[Lane] | None, *, wait_s: float, confirming: Claim | None = None
    ) -> tuple[list[Claim], bool]:
        """Up to `count` claims, or none after `wait_s`; whether `confirming` was held.

        A caller that is cancelled gets none: they are put back.
        """
        if self._returning:
            await asyncio.wait(self._returning)
        if self.closed:
            raise self._calls.link.unavailable("it is closed")
        wanted = None if lanes is None else tuple(map(names.lane_name, lanes))
        loop = asyncio.get_running_loop()
        ending = None if confirming is None else self._calls.ending(confirming)
        waiter = _Waiter(count, wanted, loop.time() + wait_s, ending, loop.create_future())
        if wanted is None:
            self._arriving.add(waiter)
        else:
            self._ask([waiter])
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            if not waiter.answer.cancelled() and waiter.answer.exception() is None:
                self._put_back(waiter.answer.result()[0])
            for asked in self._rounds:
                if waiter in asked.waiters:
                    self._note_returning(asked.end())
            raise
        finally:
            self._waiters.pop(waiter, None)
            if waiter.alarm is not None:
                waiter.alarm.cancel()

    def _arrive(self, waiters: list[_Waiter]) -> None:
        if self.closed:
            self._fail(waiters, self._calls.link.unavailable("it is closed"))
        else:
            self._ask(waiters)

    def _ask(self, waiters: list[_Waiter]) -> _Round:
        """Send one call for these callers."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        here = [waiter for waiter in waiters if not waiter.answer.done()]
        lanes = here[0].lanes if here else None
        waits = lanes is not None and here[0].until > now
        notices = tuple(self._notices)
        self._notices.clear()
        asked = _Round(
            self._calls,
            min(sum([waiter.count for waiter in here]), LARGEST_BATCH),
            lanes,
            [waiter.confirming for waiter in here if waiter.confirming is not None],
            WAITED_MS if waits else 0,
            notices,
            now >= self._look_at,
            self,
            here,
            now,
        )
        self._rounds.add(asked)
        self._calls.claim(asked)
        return asked

    def take(
        self, asked: _Round, claims: list[Claim], next_ms: int | None, confirmed: Sequence[bool | QueueUnavailable]
    ) -> None:
        """Share out what a call has brought; who got nothing stays as long as they wait."""
        if asked.is_over:
            return  # It was closed meanwhile, and whatever it holds is released.
        self._arriving.answered(len(asked.waiters))
        now = asyncio.get_running_loop().time()
        if asked.look:
            self._look_at = asked.began_at + self._look_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads processes
        if next_ms is not None:
            self._look_at = min(self._look_at, now + max(SHORTEST_WAIT_S, next_ms / 1000))
        asked.brought = len(claims)
        waiters = self._tell_confirmed(asked.waiters, confirmed)
        self._share(claims, waiters)
        for waiter in waiters[asked.brought :]:
            if waiter.until > now:
                self._stay(waiter)
            else:
                self._answer(waiter, [])
        self._set_alarm()
        self._end(asked)

    def _tell_confirmed(self, waiters: list[_Waiter], told: Sequence[bool | QueueUnavailable]) -> list[_Waiter]:
        """Those who have no error to hear."""
        confirmed, rest = iter(told), []
        for waiter in waiters:
            its = False if waiter.confirming is None else next(confirmed)
            if isinstance(its, QueueUnavailable):
                self._fail([waiter], its)
                continue
            waiter.confirmed |= its
            waiter.confirming = None
            rest.append(waiter)
        return rest

    def give_up(self, asked: _Round, error: Exception) -> None:
        """A call has failed; what is wrong may be with one of those who asked together."""
        self._notices.update(asked.notice)
        if len(asked.waiters) > 1 and is_of_call(error):
            for waiter in asked.waiters:
                self._arrive([waiter])
        else:
            asked.failure = error
            self._fail(asked.waiters, error)
        self._end(asked)

    def _end(self, asked: _Round) -> None:
        self._rounds.discard(asked)
        asked.is_over = True
        if asked.ended is not None and not asked.ended.done():
            asked.ended.set_result(None)

    def _stay(self, waiter: _Waiter) -> None:
        """Have a caller wait who found nothing."""
        if waiter.answer.done() or waiter in self._waiters:
            return
        if self.closed:
            self._fail([waiter], self._calls.link.unavailable("it is closed"))
            return
        self._waiters[waiter] = None
        waiter.alarm = asyncio.get_running_loop().call_at(waiter.until, self._answer, waiter, [])
        self._listen()

    def expect(self, delay_ms: int) -> None:
        """Something was delayed by this process: look when it comes due."""
        self._look_at = min(self._look_at, asyncio.get_running_loop().time() + delay_ms / 1000)
        self._set_alarm()

    def _put_back(self, claims: Sequence[Claim]) -> None:
        """Release claims that nobody is there for any more, before anything else is claimed here."""
        if claims:
            self._note_returning(self._start(self._return(claims)))

    def _note_returning(self, work: asyncio.Future[None]) -> None:
        self._returning.add(work)
        work.add_done_callback(self._returning.discard)

    async def _return(self, claims: Sequence[Claim]) -> None:
        # Where it fails, the next connection gives back what nobody here has.
        for claim in claims:
            self._calls.let_go(claim.token)
        with contextlib.suppress(QueueUnavailable):
            await asyncio.gather(*(self._calls.release(claim, 0) for claim in claims))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name="onlooker-queue")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _answer(self, waiter: _Waiter, claims: list[Claim]) -> None:
        self._waiters.pop(waiter, None)
        if waiter.answer.done():
            self._put_back(claims)
        else:
            waiter.answer.set_result((claims, waiter.confirmed))

    def _fail(self, waiters: Iterable[_Waiter], error: Exception) -> None:
        for waiter in list(waiters):
            self._waiters.pop(waiter, None)
            if not waiter.answer.done():
                waiter.answer.set_exception(error)

    def _wake(self) -> None:
        """There may be something: let those who wait look."""
        self._was_woken = True
        if self._serving is None and not self.closed:
            self._serving = self._start(self._serve())

    async def _serve(self) -> None:
        try:
            while self._was_woken and not self.closed:
                self._was_woken = False
                await self._serve_once()
        except QueueUnavailable as error:
            self._fail(self._waiters, error)
        finally:
            self._serving = None
            self._set_alarm()

    async def _serve_once(self) -> None:
        """One call for all who take anything, then one for each who waits for certain lanes.

        Where nobody waits any more it is a call for nothing, which passes the marker on to another process.
        """
        anything = [waiter for waiter in self._waiters if waiter.lanes is None]
        if anything or self._notices or not self._waiters:
            asked = await self._asked(anything)
            # There may be more than one call may bring.
            self._was_woken |= asked.brought == asked.count > 0 and bool(self._waiters)
        for waiter in [waiter for waiter in self._waiters if waiter.lanes is not None]:
            await self._asked([waiter])

    async def _asked(self, waiters: list[_Waiter]) -> _Round:
        """A call that has been answered. Raises `QueueUnavailable`."""
        asked = self._ask(waiters)
        await asyncio.wait({asked.end()})
        if asked.failure is not None:
            raise asked.failure
        return asked

    def _share(self, claims: list[Claim], waiters: list[_Waiter]) -> None:
        """One for each in the order in which they came, the rest to those who want more. What is left goes back."""
        rest = claims[len(waiters) :]
        for waiter, first in zip(waiters, claims, strict=False):
            more = waiter.count - 1
            self._answer(waiter, [first, *rest[:more]] if more else [first])
            del rest[:more]
        self._put_back(rest)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._waiters and not self.closed:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(max(self._look_at, loop.time() + SHORTEST_WAIT_S), self._come_due)

    def _come_due(self) -> None:
        """It is time to look. uvloop's timers are up to a millisecond early, and by then it would not seem so."""
        self._look_at = asyncio.get_running_loop().time()
        self._wake()

    def _keys(self) -> tuple[str, ...]:
        """The markers to wait for: that of everything and those of the shared lanes, or those of certain lanes."""
        lanes: dict[str, None] = {}
        keys: list[str] = []
        if any(waiter.lanes is None for waiter in self._waiters):
            keys.append(f"{self._calls.prefix}:wake")
            lanes.update(self._kinds)
        for waiter in self._waiters:
            lanes.update(dict.fromkeys(waiter.lanes or ()))
        return (*keys, *(f"{self._calls.prefix}:{lane}:marker" for lane in lanes))

    def _listen(self) -> None:
        """See to it that all who wait are heard for."""
        self._set_alarm()
        if self._listening is None:
            self._listening = self._start(self._hear())
        elif self._blocked_on is not None and not set(self._keys()) <= set(self._blocked_on):
            self._start(self._unblock(self._blocked_on))

    async def _unblock(self, blocked_on: tuple[str, ...]) -> None:
        """End a wait that is for too little. Redis may not have begun it yet."""
        while self._blocked_on is blocked_on and not self.closed:
            try:
                await self._calls.link.call(lambda _attempt: ("CLIENT", "UNBLOCK", self._client_id))
            except QueueUnavailable:
                return
            await asyncio.sleep(UNBLOCK_EVERY_S)

    async def _hear(self) -> None:
        try:
            while self._waiters and not self.closed:
                await self._hear_once()
        finally:
            self._listening = None

    async def _hear_once(self) -> None:
        keys = self._keys()
        try:
            wire = await self._markers.connect()
            self._blocked_on = keys
            found = await wire.ask(("BZPOPMIN", *keys, BLOCK_S), timeout_s=BLOCK_S + LATE_S)
        except ConnectionLost:
            # Somebody ended this connection, or Redis is gone: the next attempt tells.
            return
        except (NotConnected, Refused) as error:
            self._fail(self._waiters, self._markers.unavailable(str(error)))
            return
        finally:
            self._blocked_on = None
        if found:
            lane = found[0].decode().removeprefix(f"{self._calls.prefix}:").rpartition(":")[0]
            if lane in self._kinds:
                self._notices.add(lane)
        if found or any(waiter.lanes is not None for waiter in self._waiters):
            self._wake()
            if self._serving is not None:
                await asyncio.wait({self._serving})

    async def _prepare(self, wire: Wire) -> None:
        self._client_id = await wire.ask(("CLIENT", "ID"))

    async def close(self) -> None:
        """Send those who wait away, and return when nothing runs any more. A second call does nothing."""
        self.closed = True
        closed = self._calls.link.unavailable("it is closed")
        self._fail(self._waiters, closed)
        self._set_alarm()
        await self._markers.close()
        under_way = [*self._tasks, *(asked.end() for asked in self._rounds)]
        if under_way:
            await asyncio.wait(under_way, timeout=END_WITHIN_S)
        for asked in list(self._rounds):
            self._fail(asked.waiters, closed)
            self._end(asked)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
