"""The group writer: requests that wait at the same time share one transaction, each answered after its commit."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from onlooker.domain.errors import StorageUnavailable, Unavailable
from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import Job, NewEvent, Recorded
from onlooker.storage.database import Database
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

    def __init__(self, database: Database, *, publish: Publish, max_attempts: int, max_waiting: int) -> None:
        self._database = database
        self._publish = publish
        self._max_attempts = max_attempts
        self._max_waiting = max_waiting
        self._requests: deque[_Request] = deque()
        self._arrived = asyncio.Event()
        self._waiting_events = 0
        self._waiting_bytes = 0
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
        try:
            answers = await self._store(requests)
        except Exception as error:  # noqa: BLE001 - it is handed to everybody who waits
            answers = [error] * len(group)
        task = asyncio.create_task(self._publish_and_answer(group, answers))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _store(self, requests: Sequence[Sequence[NewEvent]]) -> Sequence[Answer]:
        """Store the group in one transaction; where that fails by one of them, each in a savepoint and one commit."""
        try:
            return await self._database.tx(
                lambda conn: record_requests(conn, requests, max_attempts=self._max_attempts), urgent=True
            )
        except StorageUnavailable:
            raise
        except Exception as error:
            if len(requests) == 1:
                raise
            log.warning(
                "a group was refused, its requests run apart", requests=len(requests), error=type(error).__name__
            )
        return await self._database.tx(
            lambda conn: record_apart(conn, requests, max_attempts=self._max_attempts), urgent=True
        )

    async def _publish_and_answer(self, group: Sequence[_Request], answers: Sequence[Answer]) -> None:
        """Ring what is queued, in order, while the next group is stored already."""
        jobs = {
            recorded.job.id: recorded.job
            for answer in answers
            if not isinstance(answer, Exception)
            for recorded in answer
            if recorded.job is not None and recorded.job.status is JobStatus.QUEUED
        }
        deferred = bool(jobs) and not await self._publish(list(jobs.values()))
        for request, answer in zip(group, answers, strict=True):
            if request.answer.done():
                continue
            if isinstance(answer, Exception):
                request.answer.set_exception(answer)
            elif deferred:
                request.answer.set_result([_deferred(recorded, jobs) for recorded in answer])
            else:
                request.answer.set_result(answer)


def _deferred(recorded: Recorded, jobs: dict[str, Job]) -> Recorded:
    job = recorded.job
    return replace(recorded, deferred=True) if job is not None and job.id in jobs else recorded
