"""Callers who want claims, and what wakes them.

Who finds nothing stays here. One connection per process blocks on the markers that Redis is given when something
becomes ready, whatever the number of sessions; a timer looks when the next thing comes due, and every `look_ms` in any
case, for the marker that a process took which then died is gone.
"""

import asyncio
import contextlib
import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from onlooker.domain.errors import QueueUnavailable
from onlooker.queue.bullmq import names
from onlooker.queue.bullmq.address import Address
from onlooker.queue.bullmq.calls import Calls, Taken, Want
from onlooker.queue.bullmq.link import ConnectionLost, Link, NotConnected, Refused, Wire
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
    """One caller who wants claims: of any lane, or of these (their names on the wire)."""

    count: int
    lanes: tuple[str, ...] | None
    answer: asyncio.Future[list[Claim]]


class Waiters:
    """See the module. `kinds` are the wire names of the shared lanes to which others may add."""

    def __init__(self, address: Address, calls: Calls, *, kinds: Sequence[str], look_ms: int) -> None:
        self._calls = calls
        self._kinds = dict.fromkeys(kinds)
        self._look_s = look_ms / 1000
        self._markers = Link(address, self._prepare)
        self._client_id = 0
        self._waiters: dict[_Waiter, None] = {}
        self._listening: asyncio.Task[None] | None = None
        self._blocked_on: tuple[str, ...] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._was_woken = False
        self._notices: set[str] = set()
        self._look_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._returning: set[asyncio.Task[None]] = set()
        self.closed = False

    async def claim(
        self, count: int, lanes: Sequence[Lane] | None, *, wait_s: float, confirming: Claim | None = None
    ) -> Taken:
        """Up to `count` claims, or none after `wait_s`. A caller that is cancelled gets none: they are put back."""
        if self.closed:
            raise self._calls.link.unavailable("it is closed")
        wanted = None if lanes is None else tuple(map(names.lane_name, lanes))
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        if self._returning:
            await asyncio.wait(self._returning)
        taken = await self._kept(self._take(count, wanted, waits=wait_s > 0, confirming=confirming))
        if taken.claims or wait_s <= 0:
            return taken
        if self.closed:
            raise self._calls.link.unavailable("it is closed")
        waiter = _Waiter(count, wanted, loop.create_future())
        alarm = loop.call_at(until, self._answer, waiter, [])
        self._waiters[waiter] = None
        self._listen()
        try:
            claims = await waiter.answer
        except asyncio.CancelledError:
            if not waiter.answer.cancelled() and waiter.answer.exception() is None:
                self._put_back(waiter.answer.result())
            raise
        finally:
            self._waiters.pop(waiter, None)
            alarm.cancel()
        return Taken(claims, None, taken.confirmed)

    async def _take(
        self, count: int, lanes: tuple[str, ...] | None, *, waits: bool, confirming: Claim | None = None
    ) -> Taken:
        notices, self._notices = tuple(self._notices), set()
        now = asyncio.get_running_loop().time()
        look = now >= self._look_at
        want = Want(min(count, LARGEST_BATCH), lanes, WAITED_MS if waits and lanes else 0, notices, look)
        try:
            taken = await self._calls.claim(want, confirming)
        except QueueUnavailable:
            self._notices.update(notices)
            raise
        if look:
            self._look_at = now + self._look_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads processes
        if taken.next_ms is not None:
            soon = asyncio.get_running_loop().time() + max(SHORTEST_WAIT_S, taken.next_ms / 1000)
            self._look_at = min(self._look_at, soon)
        self._set_alarm()
        return taken

    def expect(self, delay_ms: int) -> None:
        """Something was delayed by this process: look when it comes due."""
        self._look_at = min(self._look_at, asyncio.get_running_loop().time() + delay_ms / 1000)
        self._set_alarm()

    async def _kept(self, taking: Coroutine[Any, Any, Taken]) -> Taken:
        """Await it; if the caller is cancelled meanwhile, what it brings is put back."""
        task = self._start(taking)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise self._calls.link.unavailable("it is closed") from None
            self._put_back(task)
            raise

    def _put_back(self, brought: Sequence[Claim] | asyncio.Task[Taken]) -> None:
        """Release claims that nobody is there for any more, before anything else is claimed here."""
        if brought:
            returning = self._start(self._return(brought))
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)

    async def _return(self, brought: Sequence[Claim] | asyncio.Task[Taken]) -> None:
        # Where it fails, the claims' leases end, and calls that brought nothing have told nobody anything.
        with contextlib.suppress(QueueUnavailable):
            claims = (await brought).claims if isinstance(brought, asyncio.Task) else brought
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
            waiter.answer.set_result(claims)

    def _fail(self, error: Exception) -> None:
        """Tell all who wait."""
        for waiter in list(self._waiters):
            del self._waiters[waiter]
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
            self._fail(error)
        finally:
            self._serving = None
            self._set_alarm()

    async def _serve_once(self) -> None:
        """One call for all who take anything, then one for each who waits for certain lanes.

        Where nobody waits any more it is a call for nothing, which passes the marker on to another process.
        """
        anything = [waiter for waiter in self._waiters if waiter.lanes is None]
        if anything or self._notices or not self._waiters:
            wanted = min(sum(waiter.count for waiter in anything), LARGEST_BATCH)
            taken = await self._take(wanted, None, waits=False)
            self._share(taken.claims, anything)
            # There may be more than one call may bring.
            self._was_woken |= len(taken.claims) == wanted > 0 and bool(self._waiters)
        certain = [waiter for waiter in self._waiters if waiter.lanes is not None]
        for waiter in certain:
            taken = await self._take(waiter.count, waiter.lanes, waits=True)
            if taken.claims:
                self._answer(waiter, taken.claims)

    def _share(self, claims: list[Claim], waiters: list[_Waiter]) -> None:
        """One for each in the order in which they came, the rest to those who want more."""
        rest = iter(claims[len(waiters) :])
        for waiter, first in zip(waiters, claims, strict=False):
            self._answer(waiter, [first, *islice(rest, waiter.count - 1)])

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._waiters and not self.closed:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(max(self._look_at, loop.time() + SHORTEST_WAIT_S), self._wake)

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
            self._fail(self._markers.unavailable(str(error)))
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
        self._fail(self._calls.link.unavailable("it is closed"))
        self._set_alarm()
        await self._markers.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_WITHIN_S)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
