"""The lane to one provider: how many calls run at once, and whether any may run at all.

It closes when the provider asks for a pause, fails several times in a row, is out of quota or refuses the settings.
When its time has come one call is let through; if that succeeds the lane opens, for one call at a time at first and
for one more with each success, so that what has waited does not fall upon a provider that has just come back.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from onlooker.domain.errors import BadSettings, Busy, Exhausted, ProviderError
from onlooker.domain.lanes import LaneCondition, LaneState
from onlooker.host import now_ms
from onlooker.pauses import pause
from onlooker.providers.board import Board

FAILURES_TO_CLOSE = 3
"""Failures in a row, of whatever calls, that make an outage."""

FIRST_COOLING_S = 1.0
SHORTEST_COOLING_S = 1.0
LONGEST_COOLING_S = 30.0
COOLING_SHARE = 1 / 60
"""An outage is looked at again after a sixtieth of the time it has lasted, within these bounds: after a minute's
outage within 1.3 s of its end, after half an hour's within 38 s, the spread of a quarter included."""

HELD_S = 600.0
"""How long a provider without quota or with refused settings is left alone where it names no time."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""A rate limit that names no time: doubled with each in a row."""

WAITED_FOR_S = 60.0
"""A longer pause is not waited for by `ready`: jobs are parked by their rows (R9)."""

TRIAL_S = 2.0
"""How long a waiter that was let through has to make its call before another one is."""


@dataclass(slots=True)
class _Closed:
    condition: LaneCondition
    until: float
    reason: str
    since: float
    rounds: int = 0
    posted: bool = False


class Lane:
    """One object serves all tasks of a process; the `board` tells other processes of pauses, and tells of theirs."""

    def __init__(
        self,
        provider: str,
        model: str,
        endpoint: str,
        *,
        concurrency: int,
        board: Board | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = now_ms,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.provider = provider
        self.model = model
        self.endpoint = endpoint
        self.concurrency = concurrency
        self._board = board
        self._clock = clock
        self._wall_ms = wall_ms
        self._jitter = jitter
        self._closed: _Closed | None = None
        self._failures = 0
        self._pauses = 0
        self._allowed = concurrency
        self._running = 0
        self._trial_running = False
        self._trial_given_at = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._changed = asyncio.Event()
        self._opened = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A call's turn, in the order of asking. Raises the `ProviderError` that closed the lane, without a call."""
        await self._look()
        is_trial = self._admit()
        try:
            await self._take_slot(is_trial=is_trial)
            try:
                yield
            finally:
                self._running -= 1
                self._wake()
        finally:
            if is_trial:
                self._trial_running = False
                self._tell_waiters()

    async def succeeded(self, used_up_for_s: float | None = None) -> None:
        """The provider answered, if only to refuse this one request. `used_up_for_s`: it said that was the last one."""
        self._failures = self._pauses = 0
        if self._closed is not None and self._trial_running:
            await self._open()
        elif self._closed is None and self._allowed < self.concurrency:
            self._allowed += 1
            self._wake()
        if used_up_for_s and self._closed is None:
            await self._close(LaneCondition.PAUSED, min(used_up_for_s, WAITED_FOR_S), "its rate limit is used up")

    async def failed(self, error: ProviderError, *, is_limit: bool = False) -> None:
        """A call failed. An error of the provider's own gets the time of the next attempt as its `retry_after_s`."""
        error.provider = self.provider
        if isinstance(error, Exhausted):
            condition = LaneCondition.BAD_SETTINGS if isinstance(error, BadSettings) else LaneCondition.EXHAUSTED
            await self._close(condition, error.retry_after_s or HELD_S, str(error))
        elif not isinstance(error, Busy):
            await self.succeeded()
            return
        elif is_limit or error.retry_after_s is not None:
            pause_s = error.retry_after_s
            if pause_s is None:
                pause_s = min(FIRST_PAUSE_S * 2**self._pauses, LONGEST_PAUSE_S) * (0.75 + self._jitter() / 2)
            self._pauses += 1
            await self._close(LaneCondition.PAUSED, pause_s, str(error))
        else:
            self._failures += 1
            if self._closed is None and self._failures >= FAILURES_TO_CLOSE:
                await self._close(LaneCondition.DOWN, FIRST_COOLING_S * (0.75 + self._jitter() / 2), str(error))
            elif self._closed is not None and self._trial_running:
                await self._close(self._closed.condition, self._cooling_s(self._closed), str(error))
        if self._closed is not None:
            error.retry_after_s = self._remaining_s(self._closed)

    async def ready(self) -> None:
        """See `Provider.ready`."""
        while True:
            await self._look()
            closed = self._closed
            if closed is None:
                return
            remaining_s = closed.until - self._clock()
            if remaining_s > WAITED_FOR_S:
                return
            if remaining_s <= 0:
                since_s = self._clock() - self._trial_given_at
                if not self._trial_running and since_s >= TRIAL_S:
                    self._trial_given_at = self._clock()
                    return
                remaining_s = max(TRIAL_S - since_s, 0.05)
            await pause(self._changed, remaining_s)

    async def opened(self) -> None:
        """Return when the lane opens next."""
        await self._opened.wait()

    @property
    def state(self) -> LaneState:
        """How the lane is."""
        closed = self._closed
        if closed is None:
            return LaneState(self.provider, self.endpoint, self.model)
        until = self._wall_ms() + int((closed.until - self._clock()) * 1000)
        return LaneState(self.provider, self.endpoint, self.model, closed.condition, until, closed.reason)

    def _admit(self) -> bool:
        """Whether this call is the trial; raises what closed the lane where it may not run."""
        closed = self._closed
        if closed is None:
            return False
        if closed.until > self._clock() or self._trial_running:
            raise self._refusal(closed)
        self._trial_running = True
        return True

    def _refusal(self, closed: _Closed) -> ProviderError:
        retry_after_s = self._remaining_s(closed)
        kinds: dict[LaneCondition, type[Busy | Exhausted]] = {
            LaneCondition.EXHAUSTED: Exhausted,
            LaneCondition.BAD_SETTINGS: BadSettings,
        }
        error = kinds.get(closed.condition, Busy)(closed.reason, retry_after_s=retry_after_s)
        error.provider = self.provider
        return error

    def _remaining_s(self, closed: _Closed) -> float:
        """When to come again: not before the trial that may be running has ended."""
        return max(closed.until - self._clock(), TRIAL_S if self._trial_running else FIRST_COOLING_S)

    def _cooling_s(self, closed: _Closed) -> float:
        lasted_s = self._clock() - closed.since
        cooling_s = min(max(lasted_s * COOLING_SHARE, SHORTEST_COOLING_S), LONGEST_COOLING_S)
        return cooling_s * (0.75 + self._jitter() / 2)

    async def _take_slot(self, *, is_trial: bool) -> None:
        """Count this call among the running ones, when it is its turn."""
        if is_trial or (self._running < self._allowed and not self._waiting):
            self._running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._running -= 1  # it was its turn in the very moment in which nobody wanted it any more
                self._wake()
            raise

    def _wake(self) -> None:
        """Give turns to those that wait, as many as there is room for; when the lane is closed, refuse them all."""
        while self._waiting and (self._closed is not None or self._running < self._allowed):
            turn = self._waiting.popleft()
            if turn.done():
                continue
            if self._closed is not None:
                turn.set_exception(self._refusal(self._closed))
            else:
                self._running += 1
                turn.set_result(None)

    async def _close(self, condition: LaneCondition, for_s: float, reason: str, *, tell: bool = True) -> None:
        """Close the lane, or keep it closed for longer. A pause never shortens what closes it for longer."""
        now = self._clock()
        before = self._closed
        until = now + for_s
        if before is not None and not self._trial_running and before.until >= until:
            return
        since = before.since if before is not None and before.condition is condition else now
        self._closed = closed = _Closed(condition, until, reason, since, posted=not tell)
        self._allowed = 1
        self._wake()
        self._tell_waiters()
        if tell and self._board is not None:
            await self._board.post(self.state)
            closed.posted = True

    async def _open(self) -> None:
        self._closed = None
        self._allowed = 1
        self._trial_given_at = float("-inf")
        self._wake()
        self._tell_waiters()
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()
        if self._board is not None:
            await self._board.clear(self.provider, self.endpoint)

    def _tell_waiters(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _look(self) -> None:
        """Take over what other processes have posted: pauses that outlast ours, and that somebody lifted ours."""
        if self._board is None:
            return
        posted = await self._board.look(self.provider, self.endpoint)
        closed = self._closed
        if posted is None:
            if closed is not None and closed.posted and closed.condition is not LaneCondition.DOWN:
                closed.until = min(closed.until, self._clock())
            return
        if posted.condition is LaneCondition.DOWN:
            return
        for_s = ((posted.until or 0) - self._wall_ms()) / 1000
        if for_s > 0 and (closed is None or closed.until < self._clock() + for_s - 1):
            await self._close(posted.condition, for_s, posted.reason or "", tell=False)
