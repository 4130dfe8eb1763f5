"""Waiting for jobs to settle: one look at the database every second for all waiters of a process.

A job that this process settles is told at once; the look finds those that others settle.
"""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from onlooker.domain.errors import StorageUnavailable
from onlooker.domain.jobs import LIVE
from onlooker.storage import jobs
from onlooker.storage.database import Database

POLL_S = 1.0
MOST_WAITERS = 256
"""More are answered at once, as if their time had passed: waiting must not become the load."""


class JobWaiters:
    """Entering starts the poll, which sleeps while nobody waits; leaving answers all who wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Future[bool]]] = {}
        self._count = 0
        self._somebody = asyncio.Event()
        self._poll: asyncio.Task[None] | None = None
        self._is_ending = False

    async def __aenter__(self) -> Self:
        self._poll = asyncio.create_task(self._look_again_and_again())
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._poll is not None:
            self._poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll
        self.let_go()

    def let_go(self) -> None:
        """The process is about to end: whoever waits is answered now, and nobody waits any more."""
        self._is_ending = True
        for job_id in list(self._waiting):
            self._answer(job_id, is_settled=False)

    async def wait(self, job_id: str, *, timeout_s: float) -> bool:
        """Whether the job settled within the time; False at once when too many wait already, or at the end."""
        if self._is_ending or self._count >= MOST_WAITERS:
            return False
        settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, set()).add(settled)
        self._count += 1
        self._somebody.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await settled
        except TimeoutError:
            return False
        finally:
            self._count -= 1
            if (others := self._waiting.get(job_id)) is not None:
                others.discard(settled)
                if not others:
                    del self._waiting[job_id]

    def notify(self, job_id: str) -> None:
        """Say that a job has settled, or may have: whoever waits for it looks at its row."""
        self._answer(job_id, is_settled=True)

    def _answer(self, job_id: str, *, is_settled: bool) -> None:
        for settled in self._waiting.get(job_id, ()):
            if not settled.done():
                settled.set_result(is_settled)

    async def _look_again_and_again(self) -> None:
        while True:
            if not self._waiting:
                self._somebody.clear()
                await self._somebody.wait()
            await asyncio.sleep(POLL_S)
            wanted = list(self._waiting)
            if not wanted:
                continue
            # While the database is away nobody is told anything; each waiter has its own time.
            with contextlib.suppress(StorageUnavailable):
                found = await self._database.read(lambda conn: jobs.statuses(conn, wanted))  # noqa: B023 - awaited here
                for job_id in wanted:
                    if found.get(job_id) not in LIVE:
                        self.notify(job_id)
