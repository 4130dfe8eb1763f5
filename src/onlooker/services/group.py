"""The group writer: requests that wait at the same time share one transaction, each answered after its commit."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from onlooker.domain.errors import StorageUnavailable, Unavailable
from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import Job, NewEvent, Recorded
from onlooker.storage.database import Connection, Database
from onlooker.storage.recording import record_apart, record_requests
from onlooker.telemetry import log

LARGEST_GROUP = 1_000
"""Events that may share a transaction, where one request alone does not bring more."""

MOST_WAITING_BYTES = 64 * 1024 * 1024
"""Payload that may wait, so that few large events cannot fill the memory that many small ones would not."""

RETRY_AFTER_S = 1.0


Publish = Callable[[Sequence[Job]], Awaitable[bool]]
"""Rings the jobs that were just committed; whether all of them are queued. Never raises."""

Answer = list[Recorded] | Exception


class Rings(Protocol):
    """Rings that are a part of one transaction (`services.outbox.Ringing`)."""

    def ring(self, conn: Connection, jobs: Sequence[Job]) -> None:
        """Ring jobs that the transaction stores. It may be run again, and this with it."""
        ...

    def committed(self) -> None:
        """Wake those who wait, after the commit."""
        ...


Join = Callable[[], Rings | None]
"""Asked for each transaction; None where the jobs are published after the commit."""


def no_rings() -> None:
    """Publish after the commit, always."""


@dataclass(slots=True, eq=False)
class _Request:
    """Events that are stored all or none, and who waits for them."""

    events: Sequence[NewEvent]
    size: int
    answer: asyncio.Future[list[Recorded]]


class GroupWriter:
    """Stores what waits, at once and never waiting for more. Entering starts it; leaving stores what was accepted.

    More than `max_waiting` events that are not yet answered are refused, whatever is slow.
    """

    def __init__(
        self, database: Database, *, publish: Publish, join: Join, max_attempts: int, max_waiting: int
    ) -> None:
        self._database = database
        self._publish = publish
        self._join = join
        self._max_attempts = max_attempts
        self._max_waiting = max_waiting
        self._requests: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._waiting_events = 0
        self._waiting_bytes = 0
        self.requests = 0
        """How many were taken so far."""
        self._closing = False
        self._writing: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._writing = asyncio.create_task(self._run(), name="group-writer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._arrived.set()
        if self._writing is not None:
            await self._writing
        while self._publishing:
            await asyncio.wait(self._publishing)

    @property
    def waiting(self) -> int:
        """Events that are accepted and not yet answered."""
        return self._waiting_events

    async def record(self, events: Sequence[NewEvent]) -> list[Recorded]:
        """Store the events, all or none, with others that wait; the answer comes after the commit, in their order.

        Cancelled before its group starts, nothing is stored; afterwards it may be, and the keys make a retry safe.
        Raises `Unavailable` when too much waits already, `StorageUnavailable`, and `NotFound` for an unknown session.
        """
        if self._closing or self._writing is None:
            raise Unavailable("the server is stopping", RETRY_AFTER_S)
        size = sum(len(event.payload_json) for event in events)
        # One request alone is always taken, however large: nothing would ever make room for it.
        if self._waiting_events and (
            self._waiting_events + len(events) > self._max_waiting or self._waiting_bytes + size > MOST_WAITING_BYTES
        ):
            raise Unavailable("too many events are waiting for the database", RETRY_AFTER_S)
        request = _Request(events, size, asyncio.get_running_loop().create_future())
        self._waiting_events += len(events)
        self._waiting_bytes += size
        self._requests.append(request)
        self.requests += 1
        self._arrived.set()
        try:
            return await request.answer
        finally:
            self._waiting_events -= len(events)
            self._waiting_bytes -= size

    async def _run(self) -> None:
        while True:
            group = self._next_group()
            if group:
                await self._write(group)
            elif self._closing:
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def _next_group(self) -> list[_Request]:
        group: list[_Request] = []
        events = 0
        while self._requests and (not group or events + len(self._requests[0].events) <= LARGEST_GROUP):
            request = self._requests.popleft()
            if not request.answer.done():
                group.append(request)
                events += len(request.events)
        return group

    async def _write(self, group: Sequence[_Request]) -> None:
        requests = [request.events for request in group]
        rung = False
        try:
            answers, rung = await self._store(requests)
        except Exception as error:  # noqa: BLE001 - it is handed to everybody who waits
            answers = [error] * len(group)
        if rung:
            _answer(group, answers)
            return
        task = asyncio.create_task(self._publish_and_answer(group, answers))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _store(self, requests: Sequence[Sequence[NewEvent]]) -> tuple[Sequence[Answer], bool]:
        """Store the group in one transaction; where that fails by one of them, each in a savepoint and one commit.

        Also says whether the jobs were rung in it.
        """
        rings = self._join()
        recorded = False

        def store(conn: Connection) -> Sequence[Answer]:
            nonlocal recorded
            answers = record_requests(conn, requests, max_attempts=self._max_attempts)
            recorded = True
            if rings is not None:
                rings.ring(conn, _queued(answers))
            return answers

        try:
            answers = await self._database.tx(store, urgent=True)
        except StorageUnavailable:
            raise
        except Exception as error:
            if len(requests) == 1 and not recorded:
                raise
            log.warning(
                "a group was refused, its requests run apart", requests=len(requests), error=type(error).__name__
            )
        else:
            if rings is not None:
                rings.committed()
            return answers, rings is not None
        apart = await self._database.tx(
            lambda conn: record_apart(conn, requests, max_attempts=self._max_attempts), urgent=True
        )
        return apart, False

    async def _publish_and_answer(self, group: Sequence[_Request], answers: Sequence[Answer]) -> None:
        """Ring what is queued, in order, while the next group is stored already."""
        jobs = _queued(answers)
        is_deferred = bool(jobs) and not await self._publish(jobs)
        _answer(group, answers, deferred=frozenset(job.id for job in jobs) if is_deferred else frozenset())


def _queued(answers: Sequence[Answer]) -> list[Job]:
    """The jobs that are to be rung, each once, in order."""
    jobs = {
        recorded.job.id: recorded.job
        for answer in answers
        if not isinstance(answer, Exception)
        for recorded in answer
        if recorded.job is not None and recorded.job.status is JobStatus.QUEUED
    }
    return list(jobs.values())


def _answer(group: Sequence[_Request], answers: Sequence[Answer], deferred: AbstractSet[str] = frozenset()) -> None:
    """Answer everybody; `deferred` are the ids of the jobs that could not be rung."""
    for request, answer in zip(group, answers, strict=True):
        if request.answer.done():
            continue
        if isinstance(answer, Exception):
            request.answer.set_exception(answer)
        elif deferred:
            request.answer.set_result([_deferred(recorded, deferred) for recorded in answer])
        else:
            request.answer.set_result(answer)


def _deferred(recorded: Recorded, jobs: AbstractSet[str]) -> Recorded:
    job = recorded.job
    return recorded._replace(deferred=True) if job is not None and job.id in jobs else recorded
