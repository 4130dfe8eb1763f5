"""The queue when its store is away, or an answer of it is lost."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from cutting_proxy import CuttingProxy, cutting_proxy
from databases import prepare_now
from onlooker.domain.errors import QueueUnavailable
from onlooker.host import ProcessIdentity
from onlooker.queue.contract import Claim, Lane, Message, QueueEngine
from onlooker.queue.sql import SqlQueue, calls
from onlooker.storage.database import open_database
from postgres_admin import admin_execute
from queue_stores import SqlStore
from servers import PostgresServer
from waiting import wait_until

LANE = Lane.session("one")


@pytest.fixture
def prepared(own_postgres: PostgresServer) -> PostgresServer:
    """A Postgres of the test's own, migrated."""
    prepare_now(own_postgres.url)
    return own_postgres


@pytest_asyncio.fixture
async def proxy(postgres_database_prepared: str) -> AsyncIterator[CuttingProxy]:
    target = urlsplit(postgres_database_prepared)
    async with cutting_proxy(target.hostname or "", target.port or 0) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def cut_queue(proxy: CuttingProxy, postgres_database_prepared: str) -> AsyncIterator[QueueEngine]:
    """An engine behind the proxy."""
    target = urlsplit(postgres_database_prepared)
    url = target._replace(netloc=f"{target.username}:{target.password}@127.0.0.1:{proxy.port}").geturl()
    async with SqlStore(url).engine() as queue:
        yield queue


def message(name: object) -> Message:
    return Message(str(name), "event")


async def take(queue: QueueEngine) -> Claim:
    claim = await queue.claim(wait_s=5)
    assert claim is not None
    return claim


async def is_healthy(queue: QueueEngine) -> bool:
    return (await queue.health()).ok


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_a_store_that_is_gone_is_told_at_once_and_used_again_when_it_is_back(
    prepared: PostgresServer, way: str
) -> None:
    async with SqlStore(prepared.url).engine() as queue:
        await queue.enqueue(LANE, message(1))
        claim = await take(queue)
        waiting = asyncio.create_task(queue.claim(wait_s=60))
        await asyncio.sleep(0.05)
        # The queue's commits may be lost when all of Postgres is killed, up to its last flush.
        admin_execute(prepared.url, "CHECKPOINT")
        await asyncio.to_thread(prepared.stop if way == "stop" else prepared.kill)

        began = time.monotonic()
        health = await queue.health()
        assert not health.ok
        assert health.error
        with pytest.raises(QueueUnavailable, match=f"127.0.0.1:{prepared.port}"):
            await queue.require_healthy()
        for call in (queue.enqueue(LANE, message(2)), queue.confirm(claim), queue.depth(), queue.claim(wait_s=1)):
            with pytest.raises(QueueUnavailable, match=f"127.0.0.1:{prepared.port}"):
                await call
        with pytest.raises(QueueUnavailable):
            await waiting
        assert time.monotonic() - began < 8

        await asyncio.to_thread(prepared.start)
        await wait_until(lambda: is_healthy(queue))
        assert await queue.confirm(claim)
        waiting = asyncio.create_task(queue.claim(wait_s=60))
        await asyncio.sleep(0.05)
        async with SqlStore(prepared.url).engine() as other:
            assert await other.enqueue(LANE, message(2))
            again = await asyncio.wait_for(waiting, 5)
        assert again is not None
        assert await queue.confirm(again)


async def test_a_store_that_does_not_answer_is_told_in_time(
    prepared: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(calls, "TRY_TIMEOUT_S", 0.5)
    async with SqlStore(prepared.url).engine() as queue:
        await queue.enqueue(LANE, message(1))
        claim = await take(queue)
        prepared.pause()
        try:
            began = time.monotonic()
            assert not await is_healthy(queue)
            assert time.monotonic() - began < 2.2
            for call in (queue.enqueue(LANE, message(2)), queue.confirm(claim)):
                began = time.monotonic()
                with pytest.raises(QueueUnavailable):
                    await call
                assert time.monotonic() - began < 4
        finally:
            prepared.resume()
        await wait_until(lambda: is_healthy(queue))
        # What was asked in the outage may have been done after it, and is not done twice.
        await queue.confirm(claim)
        await queue.enqueue(LANE, message(2))
        assert (await take(queue)).message.id == "2"
        assert await queue.pending(LANE) == 1


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_claim_whose_answer_was_lost_is_given_all_the_same(
    cut_queue: QueueEngine, proxy: CuttingProxy, how: str
) -> None:
    await cut_queue.enqueue(LANE, message(1))
    proxy.cut("before" if how == "before" else "after")
    claim = await take(cut_queue)
    assert (claim.attempt, proxy.cuts) == (1, 1)
    assert await cut_queue.confirm(claim)


@pytest.mark.parametrize("how", ["before", "after"])
async def test_who_confirms_is_told_the_truth_when_the_answer_was_lost(
    cut_queue: QueueEngine, proxy: CuttingProxy, how: str
) -> None:
    await cut_queue.enqueue(LANE, message(1))
    claim = await take(cut_queue)
    proxy.cut("before" if how == "before" else "after")
    assert await cut_queue.confirm(claim)
    assert proxy.cuts == 1
    assert not await cut_queue.confirm(claim)


@pytest.mark.parametrize("how", ["before", "after"])
async def test_who_enqueues_is_told_the_truth_when_the_answer_was_lost(
    cut_queue: QueueEngine, proxy: CuttingProxy, how: str
) -> None:
    proxy.cut("before" if how == "before" else "after")
    told = await asyncio.gather(*(cut_queue.enqueue(LANE, message(1)) for _ in range(3)))
    assert sum(told) == 1
    assert proxy.cuts == 1
    assert await cut_queue.pending(LANE) == 1


async def test_an_answer_that_never_comes_is_looked_up(
    cut_queue: QueueEngine, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "TRY_TIMEOUT_S", 0.5)
    await cut_queue.enqueue(LANE, message(1))
    proxy.cut("silence")
    claim = await take(cut_queue)
    assert (claim.attempt, proxy.cuts) == (1, 1)
    assert await cut_queue.confirm(claim)


async def test_many_lost_answers_lose_and_double_nothing(cut_queue: QueueEngine, proxy: CuttingProxy) -> None:
    dice = random.Random(14)  # noqa: S311 - the same cuts in every run
    lanes = [Lane.session(str(number)) for number in range(20)]
    done: dict[str, list[int]] = {lane.name: [] for lane in lanes}
    each = 15

    async def feed(lane: Lane) -> None:
        for number in range(each):
            assert await cut_queue.enqueue(lane, message(number))

    async def work() -> None:
        claim = await cut_queue.claim(wait_s=2)
        while claim is not None:
            assert claim.attempt == 1
            done[claim.lane.name].append(int(claim.message.id))
            confirmed, claim = await cut_queue.confirm_and_claim(claim, wait_s=1)
            assert confirmed

    proxy.cut_sometimes(lambda: dice.choice(("before", "after", None, None)))
    await asyncio.gather(*(feed(lane) for lane in lanes), *(work() for _ in range(8)))
    proxy.cut_sometimes(lambda: None)
    assert proxy.cuts > 10
    assert all(numbers == list(range(each)) for numbers in done.values())


async def test_a_waiting_consumer_hears_again_after_its_connections_were_ended(
    postgres_database_prepared: str,
) -> None:
    store = SqlStore(postgres_database_prepared)
    async with store.engine(look_ms=60_000) as queue, store.engine() as other:
        waiting = asyncio.create_task(queue.claim(wait_s=60))
        await asyncio.sleep(0.2)
        admin_execute(
            postgres_database_prepared,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        await other.enqueue(LANE, message(1))
        assert await asyncio.wait_for(waiting, 5) is not None


async def test_an_engine_can_be_closed_while_its_store_is_gone(prepared: PostgresServer) -> None:
    async with open_database(prepared.url) as database:
        queue = SqlQueue(database, identity=ProcessIdentity.of_this_process())
        await queue.enqueue(LANE, message(1))
        await take(queue)
        waiting = asyncio.create_task(queue.claim(wait_s=60))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(prepared.kill)

        await queue.close()

        with pytest.raises(QueueUnavailable):
            await waiting
        await queue.close()
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("onlooker")]
