"""Processes that work side by side, freeze or are wrong about the time: the same as one, every session in its order."""

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest

from deployment import SETTLED_WITHIN_S, Deployment, deployment

CONNECTIONS = 500
"""At the same time; more would need more open files than a process may have everywhere."""

CLOCK = "import itertools; real, nth = time.time_ns, itertools.count(); time.time_ns = lambda: real() + {} * 10**9; "
CLOCK += "time.time = lambda: time.time_ns() / 10**9"
AHEAD, BEHIND, JUMPING = (CLOCK.format(by) for by in ("600", "-600", "(600 if next(nth) % 2 else -600)"))

SHORT_IDLE_TRANSACTIONS = "import onlooker.storage.postgres as postgres; postgres.IDLE_TRANSACTION_TIMEOUT_S = 1.0"


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_of_their_own_do_the_same_on_one_database(
    tmp_path: Path, database_url: str | None, workers: int
) -> None:
    with deployment(tmp_path, database_url, ONLOOKER_SCRIPTED_DELAY_MS="5") as it:
        it.serve("--no-worker")
        for _ in range(workers):
            it.work()
        it.post_sessions(20, 20)
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(20, 20)
        it.wait_for_no_messages()


def test_a_worker_that_was_frozen_past_its_lease_writes_nothing_late(tmp_path: Path, stores: dict[str, str]) -> None:
    settings = {"ONLOOKER_SCRIPTED_DELAY_MS": "200", "ONLOOKER_JOB_LEASE_S": "2", "ONLOOKER_MAX_ATTEMPTS": "100"}
    with deployment(tmp_path, **stores, **settings) as it:
        it.serve("--no-worker")
        frozen = it.work()
        it.post_sessions(5, 12)
        it.wait_until_completed(5)
        it.freeze(frozen)
        it.work()
        it.wait_until(lambda: is_taken_again(it), SETTLED_WITHIN_S)
        os.kill(frozen.pid, signal.SIGCONT)
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(5, 12)
        assert "lease lost, nothing written" in it.log(), "the frozen worker did not find out"
        it.wait_for_no_messages()


def is_taken_again(it: Deployment) -> bool:
    """Whether a job was taken that had been taken before."""
    taken = [entry for entry in it.history() if entry.event == "taken"]
    return len(taken) > len(set(taken))


def test_a_worker_that_is_frozen_in_a_transaction_does_not_keep_its_locks(
    tmp_path: Path, postgres_database: str
) -> None:
    settings = {"ONLOOKER_SCRIPTED_DELAY_MS": "5", "ONLOOKER_JOB_LEASE_S": "2", "ONLOOKER_MAX_ATTEMPTS": "100"}
    with deployment(tmp_path, postgres_database, **settings) as it:
        it.serve("--no-worker")
        frozen = it.work(patch=SHORT_IDLE_TRANSACTIONS)
        it.post_sessions(5, 40)
        it.wait_until_completed(20)
        it.freeze(frozen, in_transaction=True)
        it.work()
        it.post_until_acknowledged([it.event(session, 40) for session in range(5)])
        it.wait_until_settled()
        os.kill(frozen.pid, signal.SIGCONT)
        it.post_until_acknowledged([it.event(session, 41) for session in range(5)])
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(5, 42)
        assert frozen.poll() is None


@pytest.mark.parametrize(
    "server, worker",
    [(BEHIND, AHEAD), (JUMPING, JUMPING)],
    ids=["behind-and-ahead", "jumping"],
)
def test_a_clock_that_is_wrong_moves_no_lease(tmp_path: Path, stores: dict[str, str], server: str, worker: str) -> None:
    with deployment(tmp_path, **stores, ONLOOKER_SCRIPTED_DELAY_MS="10") as it:
        it.serve("--no-worker", patch=server)
        it.work(patch=worker)
        it.work()
        it.post_sessions(10, 20)
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(10, 20)
        assert {entry.event for entry in it.history()} == {"queued", "taken", "completed"}
        assert it.happened("taken") == 200
        it.wait_for_no_messages()


def test_a_thousand_sessions_at_once(tmp_path: Path, database_url: str | None) -> None:
    with deployment(tmp_path, database_url) as it:
        it.serve()
        asyncio.run(post_at_once(it, 1000, each=1))
        it.wait_until_settled()
        it.assert_each_observed_once_in_order(1000, 1)
        it.wait_for_no_messages()


async def post_at_once(it: Deployment, sessions: int, each: int) -> None:
    """Every session sends its events one after the other on a connection of its own, all at the same time."""
    connections = asyncio.Semaphore(CONNECTIONS)
    port = httpx.URL(it.url).port

    async def post(session: int) -> None:
        async with connections:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for number in range(each):
                writer.write(it.request(it.event(session, number)))
                assert await reader.readline() == b"HTTP/1.1 201 Created\r\n"
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            writer.close()
            await writer.wait_closed()

    async with asyncio.timeout(60), asyncio.TaskGroup() as posting:
        for session in range(sessions):
            posting.create_task(post(session))
