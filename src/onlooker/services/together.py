"""What is asked for at the same time, done in one transaction: a commit and its statements cost as much for one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from onlooker.domain.errors import StorageUnavailable
from onlooker.storage.database import Connection
from onlooker.telemetry import log

LARGEST_GROUP = 16
"""More would make the first of them, and clients on the same database, wait for little."""

APART: Literal["apart"] = "apart"
"""The answer to what somebody else has locked: it waits for that in a transaction of its own, and no other with it."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Asked_contra = TypeVar("Asked_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)


class Work(Protocol[Asked_contra, Answer_co]):
    """Does all that is asked; the answers in order. It may be run again (see `Database.tx`)."""

    def __call__(
        self, conn: Connection, asked: Sequence[Asked_contra], /, *, waits: bool
    ) -> Sequence[Answer_co | Literal["apart"]]:
        """Where it `waits` for locks it answers nothing with `APART`."""
        ...


@dataclass(slots=True, eq=False)
class _Request(Generic[Asked, Answer]):
    asked: Asked
    key: Hashable
    answer: asyncio.Future[Answer]
    group: "_Group[Asked, Answer] | None" = None


@dataclass(slots=True, eq=False)
class _Group(Generic[Asked, Answer]):
    """What one transaction does."""

    requests: list[_Request[Asked, Answer]]
    task: asyncio.Task[None] | None = None


class Together(Generic[Asked, Answer]):
    """Does what waits, at once and never waiting for more. Used from one event loop; nothing runs while nobody asks.

    `transact` runs a function in a transaction. Of two with the same key each has a transaction of its own.
    """

    def __init__(
        self,
        transact: Callable[[Callable[[Connection], Any]], Awaitable[Any]],
        work: Work[Asked, Answer],
        *,
        key: Callable[[Asked], Hashable],
    ) -> None:
        self._transact = transact
        self._work = work
        self._key = key
        self._waiting: deque[_Request[Asked, Answer]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._apart: set[asyncio.Task[None]] = set()

    async def ask(self, asked: Asked) -> Answer:
        """The answer, after the commit. Raises `StorageUnavailable`, and what the work raises for this one alone.

        Cancelled before its group starts nothing is done; afterwards it may be.
        """
        request: _Request[Asked, Answer] = _Request(asked, self._key(asked), asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
        try:
            return await request.answer
        except asyncio.CancelledError:
            group = request.group
            if group is not None and group.task is not None and all(each.answer.done() for each in group.requests):
                group.task.cancel()
            raise

    async def _run(self) -> None:
        try:
            while requests := self._next_requests():
                await asyncio.wait({self._start(requests, waits=False)})
        finally:
            self._running = None

    def _next_requests(self) -> list[_Request[Asked, Answer]]:
        """The first that wait, but for those that have the key of one before them."""
        requests: dict[Hashable, _Request[Asked, Answer]] = {}
        passed: list[_Request[Asked, Answer]] = []
        while self._waiting and len(requests) < LARGEST_GROUP:
            request = self._waiting.popleft()
            if request.answer.done():
                continue
            if request.key in requests:
                passed.append(request)
            else:
                requests[request.key] = request
        self._waiting.extendleft(reversed(passed))
        return list(requests.values())

    def _start(self, requests: list[_Request[Asked, Answer]], *, waits: bool) -> asyncio.Task[None]:
        group = _Group(requests)
        for request in requests:
            request.group = group
        group.task = asyncio.get_running_loop().create_task(self._do(requests, waits=waits))
        return group.task

    def _start_apart(self, request: _Request[Asked, Answer]) -> None:
        task = self._start([request], waits=True)
        self._apart.add(task)
        task.add_done_callback(self._apart.discard)

    async def _do(self, requests: Sequence[_Request[Asked, Answer]], *, waits: bool) -> None:
        asked = [request.asked for request in requests]
        try:
            answers = await self._transact(lambda conn: self._work(conn, asked, waits=waits))
        except StorageUnavailable as error:
            _fail(requests, error)
        except asyncio.CancelledError:
            # Those who asked are gone, or all of this ends.
            for request in requests:
                request.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is handed to the one who caused it
            if len(requests) == 1:
                _fail(requests, error)
                return
            log.warning("a group failed, each runs apart", size=len(requests), error=type(error).__name__)
            for request in requests:
                self._start_apart(request)
        else:
            self._answer(requests, answers)

    def _answer(
        self, requests: Sequence[_Request[Asked, Answer]], answers: Sequence[Answer | Literal["apart"]]
    ) -> None:
        for request, answer in zip(requests, answers, strict=True):
            if request.answer.done():
                continue
            if answer == APART:
                self._start_apart(request)
            else:
                request.answer.set_result(answer)


def _fail(requests: Sequence[_Request[Any, Any]], error: Exception) -> None:
    for request in requests:
        if not request.answer.done():
            request.answer.set_exception(error)
