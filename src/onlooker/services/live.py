"""Waiting for jobs to settle: one look at the database every 250 ms for all waiters of a process."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from onlooker.domain.errors import StorageUnavailable
from onlooker.domain.jobs import LIVE
from onlooker.storage import jobs
from onlooker.storage.database import Database

POLL_S = 0.25
MOST_WAITERS = 256
"""More are answered at once, as if their time had passed: waiting must not become the load."""


class JobWaiters:
    """Entering starts the poll, which sleeps while nobody waits; leaving answers all who wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._count = 0
        self._somebody = asyncio.Event()
        self._poll: asyncio.Task[None] | None = None

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
        for job_id in list(self._waiting):
            self.notify(job_id)

    async def wait(self, job_id: str, *, timeout_s: float) -> bool:
        """Whether the job settled within the time; False at once when too many wait already."""
        if self._count >= MOST_WAITERS:
            return False
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, set()).add(settled)
        self._count += 1
        self._somebody.set()
        try:
            await asyncio.wait_for(settled, timeout_s)
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self._count -= 1
            if (others := self._waiting.get(job_id)) is not None:
                others.discard(settled)
                if not others:
                    del self._waiting[job_id]

    def notify(self, job_id: str) -> None:
        """Say that a job has settled, or may have: whoever waits for it looks at its row."""
        for settled in self._waiting.get(job_id, ()):
            if not settled.done():
                settled.set_result(None)

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
