"""Waiting for a job that another process settles."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from onlooker.services.live import JobWaiters
from onlooker.storage.database import Connection, Database

WAITERS = 20


async def test_all_who_wait_share_one_look_a_second(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    read = database.read

    async def counted(work: Callable[[Connection], Any]) -> Any:
        looks.append(asyncio.get_running_loop().time())
        return await read(work)

    monkeypatch.setattr(database, "read", counted)
    monkeypatch.setattr("onlooker.storage.jobs.statuses", lambda _conn, ids: dict.fromkeys(ids, "queued"))
    async with JobWaiters(database) as waiters:
        waiting = [waiters.wait(f"job {number % 7}", timeout_s=2.5) for number in range(WAITERS)]
        assert await asyncio.gather(*waiting) == [False] * WAITERS
    assert looks
    assert all(after - before > 0.99 for before, after in itertools.pairwise(looks))


async def test_a_job_that_nobody_here_settled_is_found(database: Database) -> None:
    async with JobWaiters(database) as waiters:
        assert await waiters.wait("a job that is gone", timeout_s=5)


async def test_the_end_of_the_process_lets_all_go_at_once(database: Database) -> None:
    async with JobWaiters(database) as waiters:
        waiting = asyncio.create_task(waiters.wait("some job", timeout_s=60))
        await asyncio.sleep(0)
        waiters.let_go()
        assert not await asyncio.wait_for(waiting, 1)
        assert not await asyncio.wait_for(waiters.wait("another job", timeout_s=60), 1)
